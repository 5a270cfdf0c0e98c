"""Tune's scheduler: which trial goes on, waits or stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from jobs.evaluation import registry
from orchestrator.sweep.state import SweepState
from orchestrator.sweep.successive_halving import SuccessiveHalving


class HalvingScheduler(FIFOScheduler):
    """Tune's scheduler for synchronous halving: waiting trials are paused, so that their seat goes
    to others.

    All trials are looked at when a rung closes, never at each of their reports.
    """

    def __init__(self, board: SweepState, release: Callable[[int], None]) -> None:
        super().__init__()
        self.release = release
        """Gives back what a paused trial holds of the cluster."""
        plan = board.plan
        self.board = board
        rows = plan.num_scored if registry.metric_of(board.metric).share else None
        self.halving = SuccessiveHalving(
            plan.num_trials, plan.rungs, board.config.sweep.reduction, board.maximise, rows
        )
        self.level = 0
        self.new: deque[Any] = deque()
        self.waiting: dict[int, Any] = {}
        """Trials that are paused, or about to be, by index."""
        self.won: deque[Any] = deque()
        """Of these the ones that go on as soon as there is a seat, in the order of the trials."""
        self.lost: deque[Any] = deque()
        """And the ones that end as soon as Tune has paused them. Of both only the first is looked
        at: pauses end in about that order.
        """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A new trial."""
        self.new.append(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, wait for the others, or stop."""
        index = trial.config["index"]
        score, loss = (
            result.get(self.board.metric, float("nan")),
            result.get(registry.VALID_LOSS, 0.0),
        )
        decision = self.halving.report(index, result["step"], score, loss)
        self._sort(tune_controller)
        if decision == "wait":
            self.waiting[index] = trial
            self.board.seats.discard(index)
            self.release(index)
            ray.get(self.board.roster.expect.remote([index], False))
        return {
            "go on": TrialScheduler.CONTINUE,
            "wait": TrialScheduler.PAUSE,
            "stop": TrialScheduler.STOP,
        }[decision]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nobody waits for a trial that has ended."""
        self.waiting.pop(trial.config["index"], None)
        self.halving.leave(trial.config["index"])
        self._sort(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nobody waits for a trial that has failed."""
        self.on_trial_complete(tune_controller, trial, {})

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A paused trial that has won its rung, when a seat is free; new trials come first."""
        self._stop_losers(tune_controller)
        while self.new:
            if self.new[0].status == "PENDING":
                return self.new[0]
            self.new.popleft()
        while self.won and not self.board.full():
            trial = self.won[0]
            if trial.status == "RUNNING":
                return None  # its pause is still under way
            self.won.popleft()
            if trial.status == "PAUSED":
                self.board.seats.add(trial.config["index"])
                return trial
        return None

    def _sort(self, tune_controller: Any) -> None:
        """When a rung has closed, tell winners from losers; a pack waits for those that have won
        before it goes on.
        """
        if self.halving.level == self.level:
            return
        self.level = self.halving.level
        decided = {index: self.halving.decide(index) for index in sorted(self.waiting)}
        won = [index for index, decision in decided.items() if decision == "go on"]
        self.won.extend(self.waiting[index] for index in won)
        self.lost.extend(
            self.waiting[index] for index, decision in decided.items() if decision == "stop"
        )
        self.waiting = {
            index: self.waiting[index] for index, decision in decided.items() if decision == "wait"
        }
        ray.get(self.board.roster.expect.remote(won, True))
        self._stop_losers(tune_controller)

    def _stop_losers(self, tune_controller: Any) -> None:
        """Stop the trials that have lost, as far as they are paused."""
        while self.lost and self.lost[0].status != "RUNNING":
            trial = self.lost.popleft()
            if trial.status == "PAUSED":
                tune_controller.stop_trial(trial)


def scheduler(board: SweepState, release: Callable[[int], None]) -> Any:
    """Tune's scheduler for this sweep. `release` gives back what a paused trial holds."""
    sweep, train = board.config.sweep, board.config.train
    if sweep.scheduler == "halving":
        return HalvingScheduler(board, release)
    if sweep.scheduler == "none":
        return FIFOScheduler()
    mode = "max" if board.maximise else "min"
    return ASHAScheduler(
        "step",
        board.metric,
        mode,
        max_t=train.steps,
        grace_period=min(train.eval_every, train.steps),
        reduction_factor=sweep.reduction,
    )
