"""From a plan to the records of its trials: Ray Tune chooses, starts and stops them.

Owns Tune's searcher, scheduler and stopper; recorder.py writes down what happens. A trial that has already reported is replayed from the
journal before anything of it is computed, so that an interrupted, widened or lengthened sweep repeats nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from jobs import packer, seat, store, worker
from jobs.faults import cause, told
from jobs.roster import end_controllers, free
from orchestrator.board import Board
from orchestrator.halving import Halving
from orchestrator.journal import Record
from orchestrator.recorder import Recorder
from orchestrator.validation import trial_of

PACK_ENDS_SECONDS = 10.0
"""How long a pack may take to end by itself."""


class Points(Searcher):
    """Tune's searcher: one trial per index, as seats become free."""

    def __init__(self, board: Board) -> None:
        super().__init__(metric=board.metric, mode="max" if board.maximise else "min")
        self.board, self.handed = board, 0
        self.starts_at_once = max(1, board.plan.resources.num_cpus - 1)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's settings, None while it has to wait, FINISHED after the last."""
        if self.handed >= self.board.plan.num_trials:
            return Searcher.FINISHED
        if self.board.full() or self.crowded() or self.board.halted:
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
        step, checkpoint = self.left_at(earlier, recorded[-1]["step"] if recorded else 0, steps)
        fixed = {"index": index, "assignment": board.assignment(trial), "step": step}
        return fixed | {"recorded": recorded, "failed": failed, "checkpoint": checkpoint}

    @staticmethod
    def left_at(earlier: Record | None, known: int, steps: int) -> tuple[int, str | None]:
        """Step and place of the checkpoint that a trial goes on from: of its last report, or of a pause after that. One that has ended may
        have none any more, and starts anew if it has to go on."""
        found = {} if earlier is None else {step: place for step, place in earlier.checkpoints.items() if known <= step <= steps}
        if earlier is None or not found:
            return 0, None
        step = max(found)
        ended = earlier.state in ("finished", "stopped", "failed")
        return (0, None) if ended and not store.exists(found[step]) else (step, found[step])

    def crowded(self) -> bool:
        """Whether enough of the first trials' processes are starting: all at once would keep the pack's own from its cores. Later trials
        take over a process that is there."""
        recorder = self.board.recorder
        if self.handed >= self.board.plan.resources.concurrent or self.handed - len(recorder.started) < self.starts_at_once:
            return False
        return self.handed - len(recorder.started | recorder.ended) >= self.starts_at_once

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: Recorder.end tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


class Rungs(FIFOScheduler):
    """Tune's scheduler for synchronous halving: waiting trials are paused, so that their seat goes to others.

    All trials are looked at when a rung closes, never at each of their reports.
    """

    def __init__(self, board: Board) -> None:
        super().__init__()
        plan = board.plan
        self.board = board
        rows = plan.num_valid if board.metric == "valid/exact_match" else None
        self.halving = Halving(plan.num_trials, plan.rungs, board.config.sweep.reduction, board.maximise, rows)
        self.level = 0
        self.new: deque[Any] = deque()
        self.waiting: dict[int, Any] = {}
        """Trials that are paused, or about to be, by index."""
        self.won: deque[Any] = deque()
        """Of these the ones that go on as soon as there is a seat, in the order of the trials."""
        self.lost: deque[Any] = deque()
        """And the ones that end as soon as Tune has paused them. Of both only the first is looked at: pauses end in about that order."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A new trial."""
        self.new.append(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, wait for the others, or stop."""
        index = trial.config["index"]
        score, loss = result.get(self.board.metric, float("nan")), result.get("valid/loss", 0.0)
        decision = self.halving.report(index, result["step"], score, loss)
        self._sort(tune_controller)
        if decision == "wait":
            self.waiting[index] = trial
            self.board.seats.discard(index)
            self.board.recorder.release(index)
            ray.get(self.board.roster.expect.remote([index], False))
        return {"go on": TrialScheduler.CONTINUE, "wait": TrialScheduler.PAUSE, "stop": TrialScheduler.STOP}[decision]

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
        """When a rung has closed, tell winners from losers; a pack waits for those that have won before it goes on."""
        if self.halving.level == self.level:
            return
        self.level = self.halving.level
        decided = {index: self.halving.decide(index) for index in sorted(self.waiting)}
        won = [index for index, decision in decided.items() if decision == "go on"]
        self.won.extend(self.waiting[index] for index in won)
        self.lost.extend(self.waiting[index] for index, decision in decided.items() if decision == "stop")
        self.waiting = {index: self.waiting[index] for index, decision in decided.items() if decision == "wait"}
        ray.get(self.board.roster.expect.remote(won, True))
        self._stop_losers(tune_controller)

    def _stop_losers(self, tune_controller: Any) -> None:
        """Stop the trials that have lost, as far as they are paused."""
        while self.lost and self.lost[0].status != "RUNNING":
            trial = self.lost.popleft()
            if trial.status == "PAUSED":
                tune_controller.stop_trial(trial)


class Ending(Stopper):
    """Ends the sweep when the user or a hopeless state asks for it."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether one trial should stop: never for a reason of its own."""
        return False

    def stop_all(self) -> bool:
        """Whether all should stop: where the user asks for it, once everyone has kept what was learned."""
        board = self.board
        return board.fatal is not None or (board.halted and (not board.interrupted or board.recorder.rested()))


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


def run(board: Board, start: Callable[[Board], list[threading.Thread]] | None = None) -> None:
    """Run the sweep to its end; afterwards `board.records` and the journal hold what came out. `start` starts the packs.

    With `board.aside` set nothing has been trained: the packs do not fit this model, and the plain executor has to do the work. With
    `board.damaged` set it has to start again from an earlier checkpoint, with `board.lost` set from where it is, since a trial's process
    was killed; with `board.fault` set the machine has failed. Raises RayError when the cluster has lost what the sweep itself runs on.
    """
    search(board, start or start_packs)


def search(board: Board, start: Callable[[Board], list[threading.Thread]]) -> None:
    """Let Tune run the trials while packs train them."""
    recorder = Recorder(board)
    attempt = seat.attempt if board.packed else worker.attempt
    tuner = tune.Tuner(
        tune.with_resources(attempt, {"node:__internal_head__": 0.001}),
        tune_config=tune.TuneConfig(
            search_alg=Points(board), scheduler=scheduler(board), num_samples=board.plan.num_trials, reuse_actors=board.packed
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(board.journal.folder / "tune"),
            callbacks=[recorder],
            stop=Ending(board),
            verbose=0,
        ),
    )
    packs = start(board)
    try:
        tuner.fit()
    except Exception as error:
        refused = cause(error)
        if refused is None or isinstance(refused, ConnectionError):
            raise
        board.fault = board.fault or told(refused, board.config.storage)
    finally:
        try:
            recorder.drain()
            for index in sorted(recorder.started - recorder.ended):
                recorder.end(index, "interrupted", None)
            for _, group in recorder.to_free:
                free(group)
        finally:
            stop_packs(board, packs)
        recorder.write_waiting()


def start_packs(board: Board) -> list[threading.Thread]:
    """Start the worker groups that train the trials; they load the base while Tune starts its own processes."""
    numbers = range(board.plan.resources.packs)
    assignment = board.assignment(trial_of(board.config, 1, {}))
    packs = [threading.Thread(target=packer.run, args=(assignment, number), name=f"pack-{number}", daemon=True) for number in numbers]
    for pack in packs:
        pack.start()
    return packs


def stop_packs(board: Board, packs: list[threading.Thread]) -> None:
    """Send the worker groups home. One whose placement group were taken away at once would be started again by Ray Train."""
    deadline = time.monotonic() + PACK_ENDS_SECONDS
    try:
        ray.get(board.roster.close.remote())
    except RayError:  # the roster is lost, and nobody else can tell the packs
        deadline = 0.0
    for pack in packs:
        pack.join(max(0.0, deadline - time.monotonic()))
    if any(pack.is_alive() for pack in packs):
        end_controllers()
    for pack in packs:
        pack.join(PACK_ENDS_SECONDS)
    with contextlib.suppress(RayError):
        for number in range(len(packs)):
            free(ray.get(board.roster.leave.remote(packer.place(number))))
