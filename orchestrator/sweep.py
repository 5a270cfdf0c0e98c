"""From a plan to the records of its trials: Ray Tune chooses, starts and stops them, the journal keeps what they said.

Owns Tune's searcher, scheduler, callback and stopper. A trial that has already reported is replayed from the journal before anything of it
is computed, so that an interrupted, widened or lengthened sweep repeats nothing.
"""

from __future__ import annotations

import shutil
import time
import uuid
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from jobs.config import BaseModel, Trial
from jobs.roster import free
from jobs.worker import Assignment, attempt
from orchestrator.halving import Halving
from orchestrator.journal import Journal, Record
from orchestrator.plan import Plan, flat_params, used
from orchestrator.screen import Screen
from orchestrator.search import Search
from orchestrator.validation import trial_of

FREE_AFTER_SECONDS = 3.0
DRAIN_SECONDS = 0.5


class Board:
    """What searcher, scheduler, callback and stopper share: who holds a seat, what is recorded, and why the sweep should end."""

    def __init__(self, plan: Plan, base: BaseModel, journal: Journal, screen: Screen) -> None:
        self.plan, self.base, self.journal, self.screen = plan, base, journal, screen
        self.config = plan.config
        self.metric, self.maximise = self.config.sweep.metric, self.config.sweep.maximise
        self.records = journal.records()
        self.earlier = {index: record for index, record in self.records.items() if record.index <= plan.num_trials}
        self.search = Search(self.config, plan.num_trials, dict(self.earlier))
        self.seats: set[int] = set()
        self.interrupted = False
        self.fatal: str | None = None
        self.roster: Any = None
        self.recorder: Recorder

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given for a restore that we never do, since the journal is the state."""
        return {}

    def best(self) -> Record | None:
        """The best trial so far by the sweep's metric; the earlier one of two equals."""
        scored = [(record.best(self.metric, self.maximise), record) for record in self.records.values() if record.state != "failed"]
        ranked = [(value[1] if self.maximise else -value[1], -record.index, record) for value, record in scored if value is not None]
        return max(ranked, key=lambda item: item[:2])[2] if ranked else None

    def full(self) -> bool:
        """Whether all seats are taken."""
        return len(self.seats) >= self.plan.resources.concurrent

    def trial(self, index: int) -> Trial:
        """The trial's settings; its point is written down the first time."""
        point = self.search.next_point(index)
        trial = trial_of(self.config, index, point)
        self.records.setdefault(index, Record(index)).point = point
        return trial

    def assignment(self, trial: Trial) -> Assignment:
        """What the trial's processes need to know."""
        resources = self.plan.resources
        storage = str(self.journal.folder / "train")
        return Assignment(self.plan.name, trial, self.base, storage, self.metric, self.maximise, resources.cpus, resources.gpus)


class Points(Searcher):
    """Tune's searcher: one trial per index, as seats become free."""

    def __init__(self, board: Board) -> None:
        super().__init__(metric=board.metric, mode="max" if board.maximise else "min")
        self.board, self.handed = board, 0

    def suggest(self, trial_id: str) -> Any:
        """The next trial's settings, None while all seats are taken, FINISHED after the last."""
        if self.handed >= self.board.plan.num_trials:
            return Searcher.FINISHED
        if self.board.full():
            return None
        self.handed += 1
        board, index = self.board, self.handed
        board.seats.add(index)
        trial = board.trial(index)
        earlier = board.earlier.get(index)
        again = earlier is not None and earlier.state == "failed" and board.config.retry
        steps = trial.train.steps
        recorded = [] if earlier is None else [{"step": s, **m} for s, m in sorted(earlier.reports.items()) if s <= steps]
        failed = earlier.error if earlier is not None and earlier.state == "failed" and not again else None
        return {"index": index, "assignment": board.assignment(trial), "recorded": recorded, "failed": failed}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: Recorder.end tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


class Rungs(FIFOScheduler):
    """Tune's scheduler for synchronous halving: waiting trials are paused, so that their seat goes to others."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        plan = board.plan
        self.board = board
        self.halving = Halving(plan.num_trials, plan.rungs, board.config.sweep.reduction, board.maximise)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, wait for the others, or stop."""
        decision = self.halving.report(trial.config["index"], result["step"], result.get(self.board.metric, float("nan")))
        self._stop_losers(tune_controller, trial)
        if decision == "wait":
            self.board.seats.discard(trial.config["index"])
            self.board.recorder.release(trial.config["index"])
        return {"go on": TrialScheduler.CONTINUE, "wait": TrialScheduler.PAUSE, "stop": TrialScheduler.STOP}[decision]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nobody waits for a trial that has ended."""
        self.halving.leave(trial.config["index"])
        self._stop_losers(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nobody waits for a trial that has failed."""
        self.on_trial_complete(tune_controller, trial, {})

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A paused trial that has won its rung, when a seat is free; new trials come first."""
        for trial in tune_controller.get_trials():
            if trial.status == "PENDING":
                return trial
        for trial in tune_controller.get_trials():
            index = trial.config["index"]
            if trial.status == "PAUSED" and self.halving.decide(index) == "go on" and not self.board.full():
                self.board.seats.add(index)
                return trial
        return None

    def _stop_losers(self, tune_controller: Any, present: Any) -> None:
        for trial in tune_controller.get_trials():
            if trial is not present and trial.status == "PAUSED" and self.halving.decide(trial.config["index"]) == "stop":
                tune_controller.stop_trial(trial)


class Recorder(Callback):
    """Writes what Tune and the workers say into the journal and onto the screen, and frees what stopped trials leave behind."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.started: set[int] = set()
        self.ended: set[int] = set()
        self.to_free: list[tuple[float, str]] = []
        self.drained = 0.0
        board.recorder = self

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's first start, or its return from a pause."""
        index = trial.config["index"]
        if index not in self.started:
            self.started.add(index)
            assignment: Assignment = trial.config["assignment"]
            params = flat_params(self.board.config, assignment.trial)
            datasets = used(self.board.plan, assignment.trial)
            self.board.journal.append("trial", trial=index, point=self.board.records[index].point, params=params, datasets=datasets)
        self.board.screen.start(index, self.board.records[index].point)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial's report at a rung."""
        index, step = trial.config["index"], int(result["step"])
        record = self.board.records[index]
        if self.board.metric not in result:
            known = ", ".join(sorted(key for key in result if "/" in key and key.split("/")[0] in ("valid", "train")))
            self.board.fatal = f"trial {index} reports no {self.board.metric}; sweep.metric can be {known}"
        if step not in record.reports:
            metrics = {key: float(value) for key, value in result.items() if "/" in key and isinstance(value, int | float)}
            record.reports[step] = metrics
            if result.get("checkpoint_path"):
                record.checkpoints[step] = result["checkpoint_path"]
            self.board.journal.append("report", trial=index, step=step, metrics=metrics, checkpoint=result.get("checkpoint_path"))
        self.board.screen.rung(index, step, record.reports[step])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that reached its end or was stopped."""
        index = trial.config["index"]
        done = max(self.board.records[index].reports, default=0) >= self.board.config.train.steps
        self.end(index, "finished" if done else "interrupted" if self.board.interrupted else "stopped", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that failed."""
        index = trial.config["index"]
        self.end(
            index, "failed", ray.get(self.board.roster.failure.remote(index)) or "the trial's process died (see the memory of the machine)"
        )

    def end(self, index: int, state: str, error: str | None) -> None:
        """Write down how a trial ended, once."""
        if index in self.ended:
            return
        self.ended.add(index)
        board = self.board
        board.seats.discard(index)
        self.release(index)
        record = board.records[index]
        record.state, record.error = state, error
        best = record.best(board.metric, board.maximise)
        board.search.ended(index, best[1] if best and state != "failed" else None)
        board.journal.append("end", trial=index, state=state, error=error)
        board.screen.end(index, state, error)
        board.fatal = board.fatal or hopeless(board)
        self.prune(index)

    def prune(self, present: int) -> None:
        """Delete the checkpoints of ended trials that cannot win any more. The one that ends right now may still be closing its files."""
        best = self.board.best()
        for index in self.ended - {present, best.index if best else 0}:
            shutil.rmtree(self.board.journal.folder / "train" / f"trial-{index:03d}", ignore_errors=True)

    def release(self, index: int) -> None:
        """Have the trial's placement group removed once its own processes are gone: a living controller would ask for a new one."""
        group: Any = ray.get(self.board.roster.leave.remote(index))
        if group:
            self.to_free.append((time.monotonic() + FREE_AFTER_SECONDS, group))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called several times a second."""
        now = time.monotonic()
        for due, group in [item for item in self.to_free if item[0] <= now]:
            free(group)
            self.to_free.remove((due, group))
        if now - self.drained > DRAIN_SECONDS:
            self.drained = now
            self.drain()
        self.board.screen.refresh()

    def drain(self) -> None:
        """Take the workers' posts into the journal and onto the screen."""
        for post in ray.get(self.board.roster.drain.remote()):
            if post["kind"] == "judged":
                self.board.screen.progress(post["label"], post["done"], post["total"])
                continue
            if post["kind"] == "say":
                self.board.journal.append("tags", t=post["t"], trial=post["trial"], tags={"note": post["text"]})
                self.board.screen.say(post["trial"], post["text"])
                continue
            for moment, step, metrics in post["steps"]:
                self.board.journal.append("metrics", t=moment, trial=post["trial"], step=step, metrics=metrics)
                self.board.screen.step(post["trial"], step, metrics)


class Ending(Stopper):
    """Ends the sweep when the user or a hopeless state asks for it."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether one trial should stop: never for a reason of its own."""
        return False

    def stop_all(self) -> bool:
        """Whether all should stop."""
        return self.board.interrupted or self.board.fatal is not None


def hopeless(board: Board) -> str | None:
    """Why the sweep should not go on: its first trials have all failed alike and none has scored."""
    failed = [record for record in board.records.values() if record.state == "failed"]
    scored = any(record.reports for record in board.records.values())
    if scored or len(failed) < min(board.config.sweep.give_up_after, board.plan.num_trials):
        return None
    reasons = {(record.error or "").split("(")[0][:60] for record in failed}
    return (
        f"the first {len(failed)} trials failed for the same reason: {failed[0].error}" if len(reasons) == 1 and len(failed) > 1 else None
    )


def scheduler(board: Board) -> Any:
    """Tune's scheduler for this sweep."""
    sweep, train = board.config.sweep, board.config.train
    if sweep.scheduler == "halving":
        return Rungs(board)
    if sweep.scheduler == "none":
        return FIFOScheduler()
    mode = "max" if board.maximise else "min"
    return ASHAScheduler(
        "step", board.metric, mode, max_t=train.steps, grace_period=min(train.eval_every, train.steps), reduction_factor=sweep.reduction
    )


def run(board: Board) -> None:
    """Run the sweep to its end; afterwards `board.records` and the journal hold what came out."""
    recorder = Recorder(board)
    tuner = tune.Tuner(
        tune.with_resources(attempt, {"node:__internal_head__": 0.001}),
        tune_config=tune.TuneConfig(search_alg=Points(board), scheduler=scheduler(board), num_samples=board.plan.num_trials),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(board.journal.folder / "tune"),
            callbacks=[recorder],
            stop=Ending(board),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        recorder.drain()
        for index in sorted(recorder.started - recorder.ended):
            recorder.end(index, "interrupted", None)
        for _, group in recorder.to_free:
            free(group)
