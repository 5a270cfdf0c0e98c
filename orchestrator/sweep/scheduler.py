"""Tune's scheduler: which trial goes on, waits or stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from jobs.evaluation import registry
from orchestrator.sweep.state import SweepState
from orchestrator.sweep.successive_halving import SuccessiveHalving

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

TuneResult = dict[str, Any]
"""A trial's report as Tune hands it on: our metrics, and what Tune adds."""


class HalvingScheduler(FIFOScheduler):
    """Tune's scheduler for synchronous halving: waiting trials are paused, so that their slot goes
    to others.

    All trials are looked at when a rung closes, never at each of their reports.
    """

    def __init__(self, sweep_state: SweepState, release: Callable[[int], None]) -> None:
        super().__init__()
        self.release = release
        """Gives back what a paused trial holds of the cluster."""
        plan = sweep_state.plan
        self.sweep_state = sweep_state
        rows = plan.num_scored if registry.metric_of(sweep_state.metric).share else None
        self.halving = SuccessiveHalving(
            plan.num_trials,
            plan.rungs,
            sweep_state.config.sweep.reduction,
            sweep_state.maximise,
            rows,
        )
        self.level = 0
        self.live: dict[int, Trial] = {}
        self.away: set[int] = set()
        """Trials that the budget keeps out of the bracket."""
        self.new: deque[Trial] = deque()
        self.waiting: dict[int, Trial] = {}
        """Trials that are paused, or about to be, by index."""
        self.won: deque[Trial] = deque()
        """Of these the ones that go on as soon as there is a slot, in the order of the trials."""
        self.lost: deque[Trial] = deque()
        """And the ones that end as soon as Tune has paused them. Of both only the first is looked
        at: pauses end in about that order.
        """

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A new trial."""
        self.new.append(trial)
        self.live[trial.config["index"]] = trial

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: TuneResult
    ) -> str:
        """Go on, wait for the others, or stop."""
        index = trial.config["index"]
        score = result.get(self.sweep_state.metric, float("nan"))
        loss = result.get(registry.VALID_LOSS, 0.0)
        decision = self.halving.report(index, result["step"], score, loss)
        self._sort(tune_controller)
        if is_dropped(self.sweep_state, index, int(result["step"])):
            self.halving.leave(index)
            self._sort(tune_controller)
            return TrialScheduler.STOP
        if decision == "wait":
            self.waiting[index] = trial
            self.sweep_state.slots_taken.discard(index)
            self.release(index)
            ray.get(self.sweep_state.coordinator.expect.remote([index], False))
        return {
            "go on": TrialScheduler.CONTINUE,
            "wait": TrialScheduler.PAUSE,
            "stop": TrialScheduler.STOP,
        }[decision]

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: TuneResult
    ) -> None:
        """Nobody waits for a trial that has ended; one that its pack has stopped has lost."""
        index = trial.config["index"]
        self.waiting.pop(index, None)
        outrun = ray.get(self.sweep_state.coordinator.why_stopped.remote(index)) is not None
        self.halving.leave(index, outrun)
        self._sort(tune_controller)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nobody waits for a trial that has failed."""
        self.on_trial_complete(tune_controller, trial, {})

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """A paused trial that has won its rung, when a slot is free; new trials come first."""
        self._drop(tune_controller)
        self._obey_budget(tune_controller)
        self._stop_losers(tune_controller)
        while self.new:
            if self.new[0].status == "PENDING":
                return self.new[0]
            self.new.popleft()
        while self.won and not self.sweep_state.full():
            trial = self.won[0]
            if trial.status == "RUNNING":
                return None  # its pause is still under way
            self.won.popleft()
            if trial.status == "PAUSED":
                self.sweep_state.slots_taken.add(trial.config["index"])
                return trial
        return None

    def _drop(self, tune_controller: TuneController) -> None:
        """Take what was dropped out of the bracket, and stop it."""
        steering = self.sweep_state.steering
        for index in sorted(steering.dropped):
            trial = self.live.get(index)
            earlier = self.sweep_state.earlier.get(index)
            paused = index in self.waiting or any(trial is one for one in self.won)
            if trial is None:
                never = earlier is None or not earlier.reports
                due = never or index in steering.fresh
            else:
                due = index in steering.fresh or (paused and self.level >= steering.dropped[index])
            if not due or (trial is not None and not stop_now(tune_controller, trial)):
                continue
            self.waiting.pop(index, None)
            self.won = deque(one for one in self.won if one is not trial)
            steering.fresh.discard(index)
            self.halving.leave(index)
            self._sort(tune_controller)

    def _obey_budget(self, tune_controller: TuneController) -> None:
        """Wait at no rung for trials that the budget keeps out, and stop those that it ends."""
        gone = self.sweep_state.allowance.not_admitted | stop_cut(
            self.sweep_state, self.live, tune_controller
        )
        for index in sorted(gone - self.away):
            self.away.add(index)
            self.waiting.pop(index, None)
            self.won = deque(one for one in self.won if one is not self.live.get(index))
            self.halving.leave(index)
        self._sort(tune_controller)

    def _sort(self, tune_controller: TuneController) -> None:
        """When a rung has closed, tell winners from losers; a pack waits for those that have won
        before it goes on.
        """
        if self.halving.level == self.level:
            return
        self.level = self.sweep_state.steering.rungs_closed = self.halving.level
        decided = {index: self.halving.decide(index) for index in sorted(self.waiting)}
        won = [index for index, decision in decided.items() if decision == "go on"]
        self.won.extend(self.waiting[index] for index in won)
        self.lost.extend(
            self.waiting[index] for index, decision in decided.items() if decision == "stop"
        )
        self.waiting = {
            index: self.waiting[index] for index, decision in decided.items() if decision == "wait"
        }
        ray.get(self.sweep_state.coordinator.expect.remote(won, True))
        self._stop_losers(tune_controller)

    def _stop_losers(self, tune_controller: TuneController) -> None:
        """Stop the trials that have lost, as far as they are paused."""
        while self.lost and self.lost[0].status != "RUNNING":
            trial = self.lost.popleft()
            if trial.status == "PAUSED":
                tune_controller.stop_trial(trial)


def is_dropped(sweep_state: SweepState, index: int, step: int) -> bool:
    """Whether a trial that reports `step` ends there since it was dropped."""
    earlier = sweep_state.earlier.get(index)
    reached = 0 if earlier is None else max(earlier.reports, default=0)
    return sweep_state.steering.is_over(index, step, reached)


def stop_now(tune_controller: TuneController, trial: Trial) -> bool:
    """Stop a trial that Tune has started; whether that could be done yet."""
    if trial.status in ("RUNNING", "PAUSED"):
        tune_controller.stop_trial(trial)
        return True
    return trial.status in ("TERMINATED", "ERROR")


def stop_cut(
    sweep_state: SweepState, live: dict[int, Trial], tune_controller: TuneController
) -> set[int]:
    """Stop the trials that the budget ends where they are; returns those that have stopped."""
    stopped = set()
    for index in sorted(sweep_state.allowance.cut & live.keys()):
        if index in sweep_state.ended or stop_now(tune_controller, live[index]):
            stopped.add(index)
    return stopped


class SteeredMixin:
    """Drops trials on request, and lets changed copies train to their end."""

    sweep_state: SweepState
    live: dict[int, Trial]

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A new trial."""
        self.live[trial.config["index"]] = trial
        if not is_copy(self.sweep_state, trial):
            super().on_trial_add(tune_controller, trial)  # type: ignore[misc]

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: TuneResult
    ) -> str:
        """Go on, or stop."""
        index, step = trial.config["index"], int(result["step"])
        if is_dropped(self.sweep_state, index, step):
            return TrialScheduler.STOP
        if is_copy(self.sweep_state, trial):
            reached = step >= self.sweep_state.config.train.steps
            return TrialScheduler.STOP if reached else TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: TuneResult
    ) -> None:
        """A trial has ended."""
        if not is_copy(self.sweep_state, trial):
            super().on_trial_complete(tune_controller, trial, result)  # type: ignore[misc]

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial is stopped that does not run."""
        if not is_copy(self.sweep_state, trial):
            super().on_trial_remove(tune_controller, trial)  # type: ignore[misc]

    def choose_trial_to_run(self, tune_controller: TuneController, **asked: object) -> Trial | None:
        """Stop what was dropped meanwhile, then choose as ever."""
        for index in sorted(self.sweep_state.steering.fresh & self.live.keys()):
            if stop_now(tune_controller, self.live[index]):
                self.sweep_state.steering.fresh.discard(index)
        stop_cut(self.sweep_state, self.live, tune_controller)
        return super().choose_trial_to_run(tune_controller, **asked)  # type: ignore[misc]


def is_copy(sweep_state: SweepState, trial: Trial) -> bool:
    """Whether a trial is a changed copy beyond those that are compared at rungs."""
    return trial.config["index"] > sweep_state.plan.num_trials


class SteeredFIFO(SteeredMixin, FIFOScheduler):
    """All trials run to their end."""

    def __init__(self, sweep_state: SweepState) -> None:
        self.sweep_state, self.live = sweep_state, {}
        super().__init__()


class SteeredASHA(SteeredMixin, ASHAScheduler):
    """Trials are compared at rungs without waiting."""

    def __init__(self, sweep_state: SweepState, **settings: Any) -> None:
        self.sweep_state, self.live = sweep_state, {}
        super().__init__(**settings)


def scheduler(sweep_state: SweepState, release: Callable[[int], None]) -> TrialScheduler:
    """Tune's scheduler for this sweep. `release` gives back what a paused trial holds."""
    sweep = sweep_state.config.sweep
    train = sweep_state.config.train
    if sweep.scheduler == "halving":
        return HalvingScheduler(sweep_state, release)
    if sweep.scheduler == "none":
        return SteeredFIFO(sweep_state)
    mode = "max" if sweep_state.maximise else "min"
    return SteeredASHA(
        sweep_state,
        time_attr="step",
        metric=sweep_state.metric,
        mode=mode,
        max_t=train.steps,
        grace_period=min(train.eval_every, train.steps),
        reduction_factor=sweep.reduction,
    )
