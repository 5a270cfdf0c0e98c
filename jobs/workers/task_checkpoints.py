"""The checkpoints of several sweeps whose trials share a pack, each in its own sweep's place."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.files.checkpoints import CheckpointStore
from jobs.files.json_types import JsonObject
from jobs.files.manifest import Snapshot
from jobs.pack.task_numbers import index_of, task_of


class TaskCheckpoints:
    """Checkpoints by a trial's key; see checkpoints.CheckpointStore."""

    def __init__(self, stores: Mapping[int, CheckpointStore]) -> None:
        self.stores = stores

    def put(self, index: int, step: int, save: Snapshot, report: JsonObject | None = None) -> str:
        """Write a checkpoint; returns its place."""
        return self.stores[task_of(index)].put(index_of(index), step, save, report)

    def at(self, index: int, step: int) -> str:
        """Where a trial's checkpoint of a step lies."""
        return self.stores[task_of(index)].at(index_of(index), step)
