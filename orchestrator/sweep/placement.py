"""What a sweep on a cluster waits for: the workers that were asked for, then room for packs or
trials. Says so, and gives up after cluster.wait_seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from orchestrator.errors import OrchestratorError
from orchestrator.plan.resources import describe
from orchestrator.sweep.state import SweepState

PATIENT_SECONDS = 20.0
"""Placing and starting a worker takes some seconds even where there is room."""
SAY_AGAIN_SECONDS = 60.0
LOOK_SECONDS = 5.0
WORKER_SECONDS = 1.0
"""Between two looks at which workers are there."""
AUTOSCALER_SECONDS = 60.0
"""How long the autoscaler of a new head may take to tell how many workers there may be."""


def for_workers(
    asked: str,
    limit_seconds: float,
    look: Callable[[], tuple[int, bool]],
    say: Callable[[str], None],
) -> None:
    """Wait for the workers of a RayJob, as relay.WORKERS tells them: after a lost head the command
    begins before they are back.

    `look` says how many nodes can hold work, and whether an autoscaler has told how many there may
    be. Goes on with fewer when the time is over; raises OrchestratorError when there are none.
    """
    few, _, most = asked.partition("-")
    began = time.monotonic()
    said_at = None
    while True:
        num_here, grows = look()
        waited = time.monotonic() - began
        if num_here >= int(few) and (
            grows or not most or waited > min(AUTOSCALER_SECONDS, limit_seconds)
        ):
            return
        have = f"{num_here} of {few} workers are here"
        if waited > limit_seconds:
            break
        if said_at is None or time.monotonic() - said_at > SAY_AGAIN_SECONDS:
            said_at = time.monotonic()
            say(
                f"waiting  for workers: {have}, for {waited:.0f} s of at most {limit_seconds:.0f} s"
            )
        time.sleep(WORKER_SECONDS)
    if not num_here and not grows:
        late = f"after cluster.wait_seconds={limit_seconds:.0f}"
        raise OrchestratorError(
            f"{have} {late}; what is done is kept, and the same command continues"
        )
    say(f"note     {have} after {waited:.0f} s; going on with them")


class PlacementMonitor:
    """Looks after worker groups that Ray has not placed."""

    def __init__(self, sweep_state: SweepState) -> None:
        self.sweep_state = sweep_state
        self.limit = sweep_state.config.cluster.wait_seconds
        self.since: dict[int, float] = {}
        """When each group was first seen without a place, by the coordinator's key."""
        self.looked = self.said_at = 0.0

    def look(self, started: set[int]) -> None:
        """Compare who should train with who does. `started` are the trials that Tune has
        started and that do not wait at a rung: those have given their processes back.
        """
        now = time.monotonic()
        if self.sweep_state.config.cluster.kind == "local" or now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        packs = self.sweep_state.plan.resources.packs
        wanted = {-1 - pack for pack in range(packs)} if self.sweep_state.packed else started
        placed: list[int] = ray.get(self.sweep_state.coordinator.placed.remote())
        self.since = {key: self.since.get(key, now) for key in wanted - set(placed)}
        longest = max((now - moment for moment in self.since.values()), default=0.0)
        if longest > self.limit:
            self.sweep_state.abort_reason = f"{self.text(self.limit)}; what is done is kept"
        elif longest > PATIENT_SECONDS and now - self.said_at > SAY_AGAIN_SECONDS:
            self.said_at = now
            self.sweep_state.screen.note(self.text())

    def text(self, limit: int | None = None) -> str:
        """Who waits, and for what."""
        resources = self.sweep_state.plan.resources
        count = len(self.since)
        who = (
            f"{count} of {resources.packs} packs wait"
            if self.sweep_state.packed
            else f"{count} trials wait"
        )
        gpus = f" and {resources.gpus:g} GPU" if resources.gpus else ""
        worker_group = f"{resources.workers} x ({resources.cpus} CPU cores{gpus})"
        free = ray.available_resources()
        total = ray.cluster_resources()
        room = ", ".join(
            f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s"
            for kind in ("CPU", "GPU")
            if total.get(kind)
        )
        late = f", for longer than cluster.wait_seconds={limit}" if limit else ""
        return (
            f"{who} for {worker_group} each{late}; free now: {room or 'nothing'}; the cluster has "
            f"or may grow to {describe(resources.nodes)}"
        )
