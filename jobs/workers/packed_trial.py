"""A trial's side of a pack: a Tune trainable that trains nothing itself. Knows Ray, not torch: such
a process is small and starts fast.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import ray

from jobs.config import Trial, WorkerSpec
from jobs.files.storage_faults import told
from jobs.pack.membership import AbortReason, RungResult
from jobs.workers.coordinator import CoordinatorHandle
from jobs.workers.messages import CheckpointPointer, TrialConfig
from jobs.workers.task_coordinator import coordinator_of

if TYPE_CHECKING:
    from ray import tune

POINTER = "pointer.json"


def run_packed_trial(config: TrialConfig) -> None:
    """Say again what is already known of the trial, then have it trained by a pack, rung by rung.

    Where Tune hands over a checkpoint, after a pause, a restore or from another trial that this one
    copies, the trial goes on from there.
    Raises RuntimeError with the cause of a failure.
    """
    from ray import tune

    assignment: WorkerSpec = config["assignment"]
    recorded = config.get("recorded", [])
    coordinator = coordinator_of(assignment)
    index: int = ray.get(
        coordinator.number.remote(tune.get_context().get_trial_id(), config["index"])
    )
    trial = with_point(assignment.trial, config.get("point", {}) | {"index": index})
    pointer = read_pointer(tune.get_checkpoint())
    if pointer is None:
        for report in recorded:
            tune.report(dict(report))
        failed = config.get("failed")
        if failed is not None:
            ray.get(coordinator.fail.remote(index, failed))
            raise RuntimeError(failed)
        stopped = config.get("stopped")
        if stopped is not None:
            ray.get(coordinator.stop.remote(index, stopped))
            return
    recorded_step = max((int(report["step"]) for report in recorded), default=0)
    if pointer is None and recorded_step >= trial.train.steps:
        return
    checkpoint, step = (
        (pointer.path, pointer.step)
        if pointer
        else (config.get("checkpoint"), config.get("step", recorded_step))
    )
    step = step if checkpoint else 0
    lease_id: int = ray.get(coordinator.join_pack.remote(index, trial, checkpoint, step))
    try:
        while step < trial.train.steps:
            answer: RungResult | AbortReason = ray.get(coordinator.train.remote(index, lease_id))
            if isinstance(answer, AbortReason) and answer.stopped is not None:
                ray.get(coordinator.stop.remote(index, answer.stopped))
                return
            if isinstance(answer, AbortReason):
                give_up(coordinator, index, answer)
            step = int(answer.metrics["step"])
            if (
                pointer is not None or step > recorded_step
            ):  # else the journal has it already: its checkpoint alone was missing
                try:
                    report_with_pointer(answer)
                except OSError as error:
                    fault = AbortReason(fault=told(error, assignment.storage))
                    ray.get(coordinator.abort.remote(fault))
                    give_up(coordinator, index, fault)
    finally:
        coordinator.leave_pack.remote(
            index, lease_id
        )  # Tune ends this process at once, so it may be lost: the driver says it too


def give_up(coordinator: CoordinatorHandle, index: int, abort: AbortReason) -> NoReturn:
    """Fail with the pack's reason, or wait for the driver to end this Tuner when that is no failure
    of the trial's.
    """
    while abort.failure is None:
        time.sleep(1)
    ray.get(coordinator.fail.remote(index, abort.failure))
    raise RuntimeError(abort.failure)


def report_with_pointer(result: RungResult) -> None:
    """Tell Tune a rung's metrics; its checkpoint of the trial only points to the pack's."""
    from ray import tune

    with tempfile.TemporaryDirectory(prefix="pointer-") as folder:
        pointer = CheckpointPointer(result.checkpoint, int(result.metrics["step"]))
        text = json.dumps(dataclasses.asdict(pointer))
        (Path(folder) / POINTER).write_text(text, encoding="utf-8")
        metrics = {**result.metrics, "checkpoint_path": result.checkpoint}
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def read_pointer(checkpoint: tune.Checkpoint | None) -> CheckpointPointer | None:
    """What `report_with_pointer` wrote."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return CheckpointPointer(**json.loads((Path(folder) / POINTER).read_text(encoding="utf-8")))


def with_point(trial: Trial, point: Mapping[str, object]) -> Trial:
    """`trial` with other values at dotted paths, such as optim.lr or data.sources.terms.weight.
    Raises ValueError for bad values.
    """
    for path, value in point.items():
        item = getattr(value, "item", None)  # a number of numpy's
        plain = item() if callable(item) else value
        trial = put(trial, path.split("."), plain)
    return trial


def put(node: Any, path: list[str], value: Any) -> Any:
    """A copy of nested dataclasses and dictionaries with `value` at `path`."""
    if not path:
        return value
    if isinstance(node, dict):
        return node | {path[0]: put(node[path[0]], path[1:], value)}
    return dataclasses.replace(node, **{path[0]: put(getattr(node, path[0]), path[1:], value)})
