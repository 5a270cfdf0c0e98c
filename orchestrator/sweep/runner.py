"""From a plan to the records of its trials: Ray Tune chooses, starts and stops them.

Owns Tune's searcher, scheduler and stopper; recorder.py writes down what happens. A trial that has
already reported is replayed from the journal before anything of it is computed, so that an
interrupted, widened or lengthened sweep repeats nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import Stopper
from ray.tune.progress_reporter import TrialProgressCallback

from jobs.files.storage_faults import cause, told
from jobs.pack.membership import PackMembership
from jobs.workers import pack_worker, packed_trial, plain_trial
from jobs.workers.coordinator import CoordinatorHandle, end_controllers, free, open_coordinator
from orchestrator.config.validation import trial_of
from orchestrator.plan.planner import Plan
from orchestrator.sweep.callback import SweepCallback
from orchestrator.sweep.scheduler import TuneResult, scheduler
from orchestrator.sweep.searcher import TrialSearcher
from orchestrator.sweep.state import SweepState

PACK_ENDS_SECONDS = 10.0
"""How long a pack may take to end by itself."""


class Trainer(Protocol):
    """Who trains the trials of a sweep in the place of a Tune run and packs of its own."""

    def coordinator_for(self, plan: Plan) -> CoordinatorHandle:
        """A coordinator for the trials of a plan."""
        ...

    def run(self, sweep_state: SweepState) -> SweepCallback:
        """Run the sweep to its end; see `run` below."""
        ...


trainer: ContextVar[Trainer | None] = ContextVar("trainer", default=None)
"""Of this thread's sweep; None: the sweep itself. See fleet/conductor.py for another one."""


def coordinator_for(plan: Plan) -> CoordinatorHandle:
    """A coordinator for the trials of a plan. Without packs there are no members."""
    other = trainer.get()
    if other is not None:
        return other.coordinator_for(plan)
    resources = plan.resources
    if not resources.packs:
        return open_coordinator(plan.name, PackMembership())
    slots = -(-resources.concurrent // resources.packs)
    return open_coordinator(plan.name, PackMembership(resources.packs, slots, plan.num_trials))


class Silent(TrialProgressCallback):
    """In the place of Tune's own, which prints a line for a trial that is stopped from outside."""

    def _print(self, msg: str) -> None:
        """Nothing."""


class SweepStopper(Stopper):
    """Ends the sweep when the user or a hopeless state asks for it."""

    def __init__(self, sweep_state: SweepState, rested: Callable[[], bool]) -> None:
        self.sweep_state = sweep_state
        self.rested = rested

    def __call__(self, trial_id: str, result: TuneResult) -> bool:
        """Whether one trial should stop: never for a reason of its own."""
        return False

    def stop_all(self) -> bool:
        """Whether all should stop: where the user asks for it, once everyone has kept what was
        learned.
        """
        sweep_state = self.sweep_state
        if sweep_state.abort_reason is not None or (
            sweep_state.halted and not sweep_state.interrupted
        ):
            return True
        return (sweep_state.interrupted or sweep_state.allowance.over) and self.rested()


def run(
    sweep_state: SweepState, start: Callable[[SweepState], list[threading.Thread]] | None = None
) -> SweepCallback:
    """Run the sweep to its end; afterwards `sweep_state.records` and the journal hold what came
    out. `start` starts the packs. Returns what writes the workers' later messages down.

    Its fields say how it ended. With `pack_rejection` set nothing has been trained: the packs do
    not fit this model, and the plain executor has to do the work. With `damaged` set it has to
    start again from an earlier checkpoint, with `lost` set from where it is, since a trial's
    process was killed; with `fault` set the machine has failed. Raises RayError when the cluster
    has lost what the sweep itself runs on.
    """
    other = trainer.get()
    if other is not None:
        return other.run(sweep_state)
    return search(sweep_state, start or start_packs)


def search(
    sweep_state: SweepState, start: Callable[[SweepState], list[threading.Thread]]
) -> SweepCallback:
    """Let Tune run the trials while packs train them."""
    recorder = SweepCallback(sweep_state)
    attempt = packed_trial.run_packed_trial if sweep_state.packed else plain_trial.run_plain_trial
    tuner = tune.Tuner(
        tune.with_resources(attempt, {"node:__internal_head__": 0.001}),
        tune_config=tune.TuneConfig(
            search_alg=TrialSearcher(sweep_state),
            scheduler=scheduler(sweep_state, recorder.release),
            num_samples=-1,  # the searcher says when there are no more: copies may be asked for
            reuse_actors=sweep_state.packed,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(sweep_state.journal.folder / "tune"),
            callbacks=[recorder, Silent()],
            stop=SweepStopper(sweep_state, recorder.rested),
            verbose=0,
        ),
    )
    packs = start(sweep_state)
    try:
        tuner.fit()
        sweep_state.steering.closed = not sweep_state.halted
        sweep_state.steering.look(sweep_state, at_once=True)
    except Exception as error:
        refused = cause(error)
        if refused is None or isinstance(refused, ConnectionError):
            raise
        sweep_state.fault = sweep_state.fault or told(refused, sweep_state.config.storage)
    finally:
        try:
            recorder.drain()
            for index in sorted(sweep_state.started - sweep_state.ended):
                recorder.end(index, "interrupted", None)
            for _, group in recorder.to_free:
                free(group)
        finally:
            stop_packs(sweep_state, packs)
        recorder.write_waiting()
    return recorder


def start_packs(sweep_state: SweepState) -> list[threading.Thread]:
    """Start the worker groups that train the trials; they load the base while Tune starts its own
    processes.
    """
    pack_indices = range(sweep_state.plan.resources.packs)
    assignment = sweep_state.assignment(trial_of(sweep_state.config, 1, {}))
    packs = [
        threading.Thread(
            target=pack_worker.run,
            args=(assignment, pack_index),
            name=f"pack-{pack_index}",
            daemon=True,
        )
        for pack_index in pack_indices
    ]
    for pack in packs:
        pack.start()
    return packs


def stop_packs(sweep_state: SweepState, packs: list[threading.Thread]) -> None:
    """Send the worker groups of a sweep home."""
    stop_packs_of(sweep_state.coordinator, packs)


def stop_packs_of(coordinator: CoordinatorHandle, packs: list[threading.Thread]) -> None:
    """Send worker groups home. One whose placement group were taken away at once would be started
    again by Ray Train.
    """
    deadline = time.monotonic() + PACK_ENDS_SECONDS
    try:
        ray.get(coordinator.close.remote())
    except RayError:  # the coordinator is lost, and nobody else can tell the packs
        deadline = 0.0
    for pack in packs:
        pack.join(max(0.0, deadline - time.monotonic()))
    if any(pack.is_alive() for pack in packs):
        end_controllers()
    for pack in packs:
        pack.join(PACK_ENDS_SECONDS)
    with contextlib.suppress(RayError):
        for pack_index in range(len(packs)):
            free(ray.get(coordinator.leave.remote(pack_worker.place(pack_index))))
