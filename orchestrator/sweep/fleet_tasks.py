"""How one Ray Tune run serves the sweeps of a fleet: each keeps its own searcher, scheduler and
recorder, as if it were alone. They are asked in the order in which slots are due to their tasks,
and hear of their own trials only. A sweep whose trials all fail alike ends by itself; what the
machine refuses ends all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from jobs.config import WorkerSpec
from jobs.files.json_types import JsonObject
from jobs.workers.coordinator import CoordinatorHandle
from jobs.workers.messages import Note, Posted, TrialConfig
from jobs.workers.task_coordinator import TaskCoordinator
from orchestrator.sweep.callback import SweepCallback
from orchestrator.sweep.scheduler import HalvingScheduler, TuneResult, scheduler
from orchestrator.sweep.searcher import TrialSearcher
from orchestrator.sweep.shared_slots import SharedSlots
from orchestrator.sweep.state import SweepState

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

NOTE_SECONDS = 1.0
ENDINGS = ("interrupted", "fault", "lost", "pack_rejection")
"""What of a sweep's state ends all training, whoever's trial it was found by."""
OTHERS_CHECKPOINT = "the packs ended, since a checkpoint of another task is damaged"


class TaskCallback(SweepCallback):
    """Writes down what happens in one task of a fleet."""

    def __init__(self, sweep_state: SweepState) -> None:
        super().__init__(sweep_state)
        self.check: Callable[[], None] = lambda: None
        """Raises KeyboardInterrupt where the command is to end."""

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial that reached its end or was stopped."""
        if self.sweep_state.abort_reason is not None:  # it was stopped with its task
            self.end(trial.config["index"], "interrupted", None)
            return
        super().on_trial_complete(iteration, trials, trial, **info)

    def drain(self) -> None:
        """Take the workers' messages into the journal and onto the screen."""
        self.check()
        super().drain()

    def __getstate__(self) -> dict[str, object]:
        """Nothing: the journal is the state."""
        return {}


class TaskTrials:
    """Tune's controller as the scheduler of one task sees it: with the trials of that task."""

    def __init__(self, controller: TuneController, trials: list[Trial]) -> None:
        self.controller = controller
        self.trials = trials

    def get_trials(self) -> list[Trial]:
        """The task's trials."""
        return self.trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controller, name)


class TaskOfRound:
    """One sweep of a round, with its own searcher, scheduler and recorder."""

    def __init__(
        self, number: int, sweep_state: SweepState, coordinator: CoordinatorHandle
    ) -> None:
        self.number = number
        self.sweep_state = sweep_state
        sweep_state.coordinator = TaskCoordinator(coordinator, number)
        self.recorder = TaskCallback(sweep_state)
        self.searcher = TrialSearcher(sweep_state)
        self.scheduler = scheduler(sweep_state, self.recorder.release)
        self.trials: list[Trial] = []
        self.given_up = False

    def wants(self) -> bool:
        """Whether it has a trial to start now."""
        sweep_state = self.sweep_state
        if sweep_state.halted or sweep_state.abort_reason is not None:
            return False
        waits = isinstance(self.scheduler, HalvingScheduler) and bool(self.scheduler.won)
        return waits or self.searcher.left()

    def is_over(self) -> bool:
        """Whether none of its trials trains any more, and none will."""
        sweep_state, searcher = self.sweep_state, self.searcher
        if sweep_state.abort_reason is not None:
            return self.given_up
        about_to_start = (
            searcher.handed - searcher.skipped - len(sweep_state.started | sweep_state.ended)
        )
        return (
            not searcher.left()
            and about_to_start <= 0
            and not sweep_state.started - sweep_state.ended
        )

    def give_up(self, controller: TuneController) -> None:
        """Stop all its trials: it should not go on, while others do."""
        for trial in self.trials:
            if trial.status not in (Trial.TERMINATED, Trial.ERROR):
                controller.stop_trial(trial)
        if not self.given_up:
            self.given_up = True
            for index in set(self.sweep_state.numbers()) - self.sweep_state.ended:
                ray.get(self.sweep_state.coordinator.ended.remote(index))

    def __getstate__(self) -> dict[str, object]:
        """Nothing: the journal is the state."""
        return {}


class FleetSearcher(Searcher):
    """Tune's searcher: the next trial of the task whose turn it is."""

    def __init__(self, tasks: list[TaskOfRound], slots: SharedSlots, at_once: int) -> None:
        super().__init__()
        self.tasks, self.slots, self.at_once = tasks, slots, at_once

    def suggest(self, trial_id: str) -> TrialConfig | str | None:
        """The next trial's settings, None while it has to wait, FINISHED after the last."""
        if self.crowded():
            return None
        waits = False
        for place in self.slots.in_turn():
            task = self.tasks[place]
            if task.sweep_state.abort_reason is not None:
                waits = waits or not task.is_over()
                continue
            answer = task.searcher.suggest(trial_id)
            if answer is None:
                waits = True
            elif answer != Searcher.FINISHED:
                return answer
        return None if waits else Searcher.FINISHED

    def crowded(self) -> bool:
        """Whether enough of the first trials' processes are starting; see TrialSearcher."""
        handed = sum(task.searcher.handed for task in self.tasks)
        begun = sum(len(task.sweep_state.started | task.sweep_state.ended) for task in self.tasks)
        return handed < self.slots.capacity and handed - begun >= self.at_once

    def on_trial_complete(
        self, trial_id: str, result: JsonObject | None = None, error: bool = False
    ) -> None:
        """Nothing: SweepCallback.end tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journals are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journals are the state."""


class FleetScheduler(FIFOScheduler):
    """Tune's scheduler: each task's own decides on its trials."""

    def __init__(self, tasks: list[TaskOfRound], slots: SharedSlots) -> None:
        super().__init__()
        self.tasks, self.slots = tasks, slots
        self.by_number = {task.number: task for task in tasks}

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A new trial."""
        task = self.by_number[number_of(trial)]
        task.trials.append(trial)
        task.scheduler.on_trial_add(view(tune_controller, task), trial)

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: TuneResult
    ) -> str:
        """Go on, wait for the others of its task, or stop."""
        task = self.by_number[number_of(trial)]
        if task.sweep_state.abort_reason is not None:
            return TrialScheduler.STOP
        return task.scheduler.on_trial_result(view(tune_controller, task), trial, result)

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: TuneResult
    ) -> None:
        """A trial has ended."""
        task = self.by_number[number_of(trial)]
        task.scheduler.on_trial_complete(view(tune_controller, task), trial, result)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial has failed."""
        task = self.by_number[number_of(trial)]
        task.scheduler.on_trial_error(view(tune_controller, task), trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial is stopped that does not run."""
        task = self.by_number[number_of(trial)]
        task.scheduler.on_trial_remove(view(tune_controller, task), trial)

    def choose_trial_to_run(self, tune_controller: TuneController, **asked: object) -> Trial | None:
        """A trial of the task whose turn it is."""
        for task in self.tasks:
            if task.sweep_state.abort_reason is not None:
                task.give_up(tune_controller)
        for place in self.slots.in_turn():
            task = self.tasks[place]
            if task.sweep_state.abort_reason is None:
                trial = task.scheduler.choose_trial_to_run(view(tune_controller, task))
                if trial is not None:
                    return trial
        return None


def number_of(trial: Trial) -> int:
    """The number of a trial's task."""
    assignment: WorkerSpec = trial.config["assignment"]
    return assignment.task


def view(controller: TuneController, task: TaskOfRound) -> Any:
    """The controller as a task's scheduler sees it."""
    return TaskTrials(controller, task.trials)


class FleetCallback(Callback):
    """Each task's recorder hears of its own trials; what ends all training is told to all."""

    def __init__(
        self, tasks: list[TaskOfRound], coordinator: CoordinatorHandle, say: Callable[[str], None]
    ) -> None:
        self.tasks, self.coordinator, self.say = tasks, coordinator, say
        self.heard = 0.0
        self.by_number = {task.number: task.recorder for task in tasks}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial's first start, or its return from a pause."""
        self.by_number[number_of(trial)].on_trial_start(iteration, trials, trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: TuneResult, **info: object
    ) -> None:
        """A trial's report at a rung."""
        self.by_number[number_of(trial)].on_trial_result(iteration, trials, trial, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial that reached its end or was stopped."""
        self.by_number[number_of(trial)].on_trial_complete(iteration, trials, trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial that failed."""
        self.by_number[number_of(trial)].on_trial_error(iteration, trials, trial)
        self.spread()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if now - self.heard > NOTE_SECONDS:
            self.heard = now
            self.notes()
        for task in self.tasks:
            task.recorder.on_step_end(iteration, trials)
        self.spread()

    def spread(self) -> None:
        """Let all tasks know what ends all training, and the one alone whose checkpoint is damaged
        that it is.
        """
        sweep_states = [task.sweep_state for task in self.tasks]
        for sweep_state in sweep_states:
            if sweep_state.damaged is not None and not sweep_state.damaged[0].startswith(
                sweep_state.place("train")
            ):
                sweep_state.damaged = None
                sweep_state.lost = sweep_state.lost or OTHERS_CHECKPOINT
        if any(sweep_state.damaged is not None for sweep_state in sweep_states):
            for sweep_state in sweep_states:
                if sweep_state.damaged is None:
                    sweep_state.lost = sweep_state.lost or OTHERS_CHECKPOINT
        for name in ENDINGS:
            reason = next(
                (
                    getattr(sweep_state, name)
                    for sweep_state in sweep_states
                    if getattr(sweep_state, name)
                ),
                None,
            )
            for sweep_state in sweep_states if reason else []:
                if not getattr(sweep_state, name) and not (name == "lost" and sweep_state.damaged):
                    setattr(sweep_state, name, reason)

    def notes(self) -> None:
        """Say what the packs say that is about no trial."""
        drained: list[Posted] = ray.get(self.coordinator.drain.remote(0))
        for posted in drained:
            if isinstance(posted.message, Note):
                self.say(posted.message.text)

    def __getstate__(self) -> dict[str, object]:
        """Nothing: the journals are the state."""
        return {}
