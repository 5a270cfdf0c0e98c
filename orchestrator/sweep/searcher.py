"""Tune's searcher: one trial per index."""

from __future__ import annotations

import ray
from ray.tune.search import Searcher

from jobs.files import filesystem
from jobs.files.json_types import JsonObject
from jobs.workers.messages import TrialConfig
from orchestrator.storage.journal import Record
from orchestrator.sweep.state import SweepState


class TrialSearcher(Searcher):
    """Tune's searcher: one trial per index, as seats become free."""

    def __init__(self, board: SweepState) -> None:
        super().__init__(metric=board.metric, mode="max" if board.maximise else "min")
        self.board = board
        self.handed = 0
        self.skipped = 0
        self.starts_at_once = max(1, board.plan.resources.num_cpus - 1)

    def suggest(self, trial_id: str) -> TrialConfig | str | None:
        """The next trial's settings, None while it has to wait, FINISHED after the last."""
        board = self.board
        self.skip_dropped()
        if not self.left():
            return None if self.is_open() else Searcher.FINISHED
        if board.full() or self.crowded() or board.halted:
            return None
        if not board.allowance.admits(board.numbers()[self.handed]):
            return None  # nor is any after it: they are passed over at the next call
        self.handed += 1
        index = board.numbers()[self.handed - 1]
        if index in board.extra_copies():
            ray.get(board.roster.widen.remote())
        board.seats.add(index)
        trial = board.trial(index)
        earlier = board.earlier.get(index)
        again = earlier is not None and earlier.state == "failed" and board.config.retry
        steps = trial.train.steps
        recorded = (
            []
            if earlier is None
            else [{"step": s} | m for s, m in sorted(earlier.reports.items()) if s <= steps]
        )
        failed = (
            earlier.error
            if earlier is not None and earlier.state == "failed" and not again
            else None
        )
        step, checkpoint = self.left_at(
            earlier, int(recorded[-1]["step"]) if recorded else 0, steps
        )
        return TrialConfig(
            index=index,
            assignment=board.assignment(trial),
            step=step,
            recorded=recorded,
            failed=failed,
            stopped=earlier.inside if earlier is not None else None,
            checkpoint=checkpoint,
        )

    def left(self) -> bool:
        """Whether trials are left to start."""
        return self.handed < self.board.total()

    def is_open(self) -> bool:
        """Whether a changed copy may still be asked for: while trials train, or one was asked for
        just now.
        """
        board = self.board
        if board.halted or board.started - board.ended:
            return not board.halted
        if len(board.started | board.ended) + self.skipped < self.handed:
            return True  # handed to Tune, and about to start
        board.steering.look(board, at_once=True)
        return self.left()

    def skip_dropped(self) -> None:
        """Pass over trials that were dropped before they had reported anything, and over those
        that the budget does not admit.
        """
        board = self.board
        while self.left():
            index = board.numbers()[self.handed]
            earlier = board.earlier.get(index)
            not_admitted = board.allowance.closed and not board.allowance.has_begun(index)
            dropped = index in board.steering.dropped and not (
                earlier is not None and earlier.reports
            )
            if not (dropped or not_admitted):
                return
            self.handed += 1
            self.skipped += 1
            ray.get(board.roster.ended.remote(index))
            if not dropped:
                board.allowance.not_admitted.add(index)
                continue
            record = board.records.setdefault(index, Record(index))
            if record.state != "stopped":
                record.state = "stopped"
                board.journal.append("end", trial=index, state="stopped", error=None)

    @staticmethod
    def left_at(earlier: Record | None, reported_step: int, steps: int) -> tuple[int, str | None]:
        """Step and place of the checkpoint that a trial goes on from: of its last report, or of a
        pause after that. One that has ended may have none any more, and starts anew if it has to go
        on.
        """
        checkpoint_by_step = (
            {}
            if earlier is None
            else {
                step: path
                for step, path in earlier.checkpoints.items()
                if reported_step <= step <= steps
            }
        )
        if earlier is None or not checkpoint_by_step:
            return 0, None
        step = max(checkpoint_by_step)
        ended = earlier.state in ("finished", "stopped", "failed")
        return (
            (0, None)
            if ended and not filesystem.exists(checkpoint_by_step[step])
            else (step, checkpoint_by_step[step])
        )

    def crowded(self) -> bool:
        """Whether enough of the first trials' processes are starting: all at once would keep the
        pack's own from its cores. Later trials take over a process that is there.
        """
        board = self.board
        if (
            self.handed >= self.board.plan.resources.concurrent
            or self.handed - len(board.started) < self.starts_at_once
        ):
            return False
        return self.handed - len(board.started | board.ended) >= self.starts_at_once

    def on_trial_complete(
        self, trial_id: str, result: JsonObject | None = None, error: bool = False
    ) -> None:
        """Nothing: SweepCallback.end tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""
