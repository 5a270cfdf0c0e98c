"""Who trains and what they said: a named actor between the training processes and the driver.

Workers post to it without waiting; the driver drains it. It also remembers where a trial's workers sit, so that the driver can free their
resources when a trial is stopped, and whether a trial has run out of memory, so that its next attempt takes smaller portions.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Any

import ray

NAMESPACE = "orchestrator"


class Roster:
    """The actor's state. Everything is keyed by the trial's index."""

    def __init__(self) -> None:
        self._posts: deque[dict[str, Any]] = deque(maxlen=100_000)
        self._groups: dict[int, str] = {}
        self._shrunk: dict[int, int] = {}
        self._failures: dict[int, str] = {}

    def post(self, trial: int, kind: str, fields: dict[str, Any]) -> None:
        """Leave a message for the driver."""
        self._posts.append({"t": int(time.time() * 1000), "kind": kind, "trial": trial, **fields})

    def drain(self) -> list[dict[str, Any]]:
        """All messages since the last call, oldest first."""
        taken = list(self._posts)
        self._posts.clear()
        return taken

    def sit(self, trial: int, group: str) -> int:
        """Record the placement group (as hexadecimal id) of a trial's workers; returns how often the trial has run out of memory."""
        self._groups[trial] = group
        return self._shrunk.get(trial, 0)

    def shrink(self, trial: int) -> None:
        """Record that a trial's worker was killed for lack of memory."""
        self._shrunk[trial] = self._shrunk.get(trial, 0) + 1

    def fail(self, trial: int, reason: str) -> None:
        """Record why a trial failed."""
        self._failures[trial] = reason

    def failure(self, trial: int) -> str | None:
        """Why a trial failed, if it could say so."""
        return self._failures.get(trial)

    def leave(self, trial: int) -> str | None:
        """Forget the trial's placement group and return it."""
        return self._groups.pop(trial, None)


def name_of(sweep: str) -> str:
    """The actor's name."""
    return f"roster-{sweep}"


def open_roster(sweep: str) -> Any:
    """Start the actor; it lives as long as the driver keeps the handle."""
    return ray.remote(Roster).options(name=name_of(sweep), namespace=NAMESPACE, num_cpus=0, max_concurrency=1).remote()


def find_roster(sweep: str) -> Any:
    """The running actor, from any process of the cluster."""
    return ray.get_actor(name_of(sweep), namespace=NAMESPACE)


def free(group: str) -> None:
    """Remove a placement group that its trial left behind; its workers die with it. Harmless when it is already gone.

    Ray Train's own cleaner does this too, but only where the dashboard runs and only one Ray runs on the host.
    """
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(ValueError, RuntimeError):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
