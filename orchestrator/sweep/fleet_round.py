"""One Ray Tune run, and one set of packs, for the trials of several sweeps; fleet_tasks.py says who
is asked what.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from ray import tune
from ray.exceptions import RayError
from ray.tune import Stopper

from jobs.files.storage_faults import cause, told
from jobs.pack.membership import PackMembership
from jobs.workers import pack_worker, packed_trial
from jobs.workers.coordinator import CoordinatorHandle, open_coordinator
from orchestrator.config.validation import trial_of
from orchestrator.plan.resources import Resources
from orchestrator.sweep.fleet_tasks import (
    FleetCallback,
    FleetScheduler,
    FleetSearcher,
    TaskCallback,
    TaskOfRound,
)
from orchestrator.sweep.runner import SweepStopper, stop_packs_of
from orchestrator.sweep.scheduler import TuneResult
from orchestrator.sweep.shared_slots import SharedSlots
from orchestrator.sweep.state import SweepState


def open_judging(name: str) -> CoordinatorHandle:
    """A coordinator for those who judge the winner of the sweep `name`."""
    return open_coordinator(name, PackMembership())


class FleetStopper(Stopper):
    """Ends the round when every task has ended, and one of them before its trials had."""

    def __init__(self, tasks: list[TaskOfRound]) -> None:
        self.tasks = tasks
        self.stoppers = [SweepStopper(task.sweep_state, task.recorder.rested) for task in tasks]

    def __call__(self, trial_id: str, result: TuneResult) -> bool:
        """Whether one trial should stop: never for a reason of its own."""
        return False

    def stop_all(self) -> bool:
        """Whether all should stop."""
        over = [
            stopper.stop_all() or task.is_over()
            for task, stopper in zip(self.tasks, self.stoppers, strict=True)
        ]
        return all(over) and any(
            task.sweep_state.halted or task.sweep_state.abort_reason is not None
            for task in self.tasks
        )

    def __getstate__(self) -> dict[str, object]:
        """Nothing: the journals are the state."""
        return {}


def train_together(
    name: str,
    sweep_states: Mapping[int, SweepState],
    weights: Mapping[int, float],
    resources: Resources,
    folder: Path,
    say: Callable[[str], None],
) -> dict[int, TaskCallback]:
    """Train the trials of several sweeps, by their numbers in the fleet, in packs that they share.
    `name` is the round's, which no other one has. Returns who has written down what happened, by
    the same numbers; afterwards the states hold what came out, as after runner.run. Raises RayError
    when the cluster has lost what the round itself runs on.
    """
    total = sum(sweep_state.total() for sweep_state in sweep_states.values())
    slots = -(-resources.concurrent // resources.packs)
    coordinator = open_coordinator(name, PackMembership(resources.packs, slots, total))
    slots = SharedSlots(name, resources.concurrent)
    tasks = []
    for number, sweep_state in sweep_states.items():
        sweep_state.shared = slots
        task = TaskOfRound(number, sweep_state, coordinator)
        slots.add(number, sweep_state, weights[number], task.wants)
        tasks.append(task)
    recorder = FleetCallback(tasks, coordinator, say)
    tuner = tune.Tuner(
        tune.with_resources(packed_trial.run_packed_trial, {"node:__internal_head__": 0.001}),
        tune_config=tune.TuneConfig(
            search_alg=FleetSearcher(tasks, slots, max(1, resources.num_cpus - 1)),
            scheduler=FleetScheduler(tasks, slots),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(folder / "tune"),
            callbacks=[recorder],
            stop=FleetStopper(tasks),
            verbose=0,
        ),
    )
    packs = start_packs(sweep_states, resources)
    try:
        tuner.fit()
        for sweep_state in sweep_states.values():
            sweep_state.steering.closed = not sweep_state.halted
            sweep_state.steering.look(sweep_state, at_once=True)
    except Exception as error:
        refused = cause(error)
        if refused is None or isinstance(refused, ConnectionError):
            raise
        for sweep_state in sweep_states.values():
            sweep_state.fault = sweep_state.fault or told(refused, sweep_state.config.storage)
    finally:
        try:
            close(tasks, recorder)
        finally:
            stop_packs_of(coordinator, packs)
            for task in tasks:
                task.recorder.write_waiting()
                task.sweep_state.coordinator = None
                task.sweep_state.shared = None
    return {task.number: task.recorder for task in tasks}


def close(tasks: list[TaskOfRound], recorder: FleetCallback) -> None:
    """Write down what came last, and who has not come to an end."""
    with contextlib.suppress(RayError):
        recorder.notes()
    for task in tasks:
        task.recorder.drain()
        for index in sorted(task.sweep_state.started - task.sweep_state.ended):
            task.recorder.end(index, "interrupted", None)


def start_packs(
    sweep_states: Mapping[int, SweepState], resources: Resources
) -> list[threading.Thread]:
    """Start the worker groups that train the trials of all tasks. They are opened on the task with
    the longest rows.
    """
    specs = {
        number: dataclasses.replace(
            sweep_state.assignment(trial_of(sweep_state.config, 1, {})),
            cpus=resources.cpus,
            gpus=resources.gpus,
        )
        for number, sweep_state in sweep_states.items()
    }
    first = max(specs.values(), key=lambda spec: spec.trial.train.max_length)
    packs = [
        threading.Thread(
            target=pack_worker.run,
            args=(first, pack_index, specs),
            name=f"pack-{pack_index}",
            daemon=True,
        )
        for pack_index in range(resources.packs)
    ]
    for pack in packs:
        pack.start()
    return packs
