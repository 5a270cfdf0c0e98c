"""Tune's searcher: one trial per index."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from jobs.files import filesystem
from orchestrator.storage.journal import Record
from orchestrator.sweep.state import SweepState


class TrialSearcher(Searcher):
    """Tune's searcher: one trial per index, as seats become free."""

    def __init__(self, board: SweepState) -> None:
        super().__init__(metric=board.metric, mode="max" if board.maximise else "min")
        self.board, self.handed = board, 0
        self.starts_at_once = max(1, board.plan.resources.num_cpus - 1)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's settings, None while it has to wait, FINISHED after the last."""
        if self.handed >= len(self.board.indices):
            return Searcher.FINISHED
        if self.board.full() or self.crowded() or self.board.halted:
            return None
        self.handed += 1
        board, index = self.board, self.board.indices[self.handed - 1]
        board.seats.add(index)
        trial = board.trial(index)
        earlier = board.earlier.get(index)
        again = earlier is not None and earlier.state == "failed" and board.config.retry
        steps = trial.train.steps
        recorded = (
            []
            if earlier is None
            else [{"step": s, **m} for s, m in sorted(earlier.reports.items()) if s <= steps]
        )
        failed = (
            earlier.error
            if earlier is not None and earlier.state == "failed" and not again
            else None
        )
        step, checkpoint = self.left_at(earlier, recorded[-1]["step"] if recorded else 0, steps)
        fixed = {"index": index, "assignment": board.assignment(trial), "step": step}
        return fixed | {"recorded": recorded, "failed": failed, "checkpoint": checkpoint}

    @staticmethod
    def left_at(earlier: Record | None, known: int, steps: int) -> tuple[int, str | None]:
        """Step and place of the checkpoint that a trial goes on from: of its last report, or of a
        pause after that. One that has ended may have none any more, and starts anew if it has to go
        on.
        """
        found = (
            {}
            if earlier is None
            else {
                step: place for step, place in earlier.checkpoints.items() if known <= step <= steps
            }
        )
        if earlier is None or not found:
            return 0, None
        step = max(found)
        ended = earlier.state in ("finished", "stopped", "failed")
        return (0, None) if ended and not filesystem.exists(found[step]) else (step, found[step])

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
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: SweepCallback.end tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""
