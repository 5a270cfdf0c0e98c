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
    """Tune's searcher: one trial per index, as slots become free."""

    def __init__(self, sweep_state: SweepState) -> None:
        super().__init__(metric=sweep_state.metric, mode="max" if sweep_state.maximise else "min")
        self.sweep_state = sweep_state
        self.handed = 0
        self.skipped = 0
        self.starts_at_once = max(1, sweep_state.plan.resources.num_cpus - 1)

    def suggest(self, trial_id: str) -> TrialConfig | str | None:
        """The next trial's settings, None while it has to wait, FINISHED after the last."""
        sweep_state = self.sweep_state
        self.skip_dropped()
        if not self.left():
            return None if self.is_open() else Searcher.FINISHED
        if sweep_state.full() or self.crowded() or sweep_state.halted:
            return None
        if not sweep_state.allowance.admits(sweep_state.numbers()[self.handed]):
            return None  # nor is any after it: they are passed over at the next call
        self.handed += 1
        index = sweep_state.numbers()[self.handed - 1]
        if index in sweep_state.extra_copies():
            ray.get(sweep_state.coordinator.widen.remote())
        sweep_state.slots_taken.add(index)
        trial = sweep_state.trial(index)
        earlier = sweep_state.earlier.get(index)
        again = earlier is not None and earlier.state == "failed" and sweep_state.config.retry
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
            assignment=sweep_state.assignment(trial),
            step=step,
            recorded=recorded,
            failed=failed,
            stopped=sweep_state.stopped_inside(index),
            checkpoint=checkpoint,
        )

    def left(self) -> bool:
        """Whether trials are left to start."""
        return self.handed < self.sweep_state.total()

    def is_open(self) -> bool:
        """Whether a changed copy may still be asked for: while trials train, or one was asked for
        just now.
        """
        sweep_state = self.sweep_state
        if sweep_state.halted or sweep_state.started - sweep_state.ended:
            return not sweep_state.halted
        if len(sweep_state.started | sweep_state.ended) + self.skipped < self.handed:
            return True  # handed to Tune, and about to start
        sweep_state.steering.look(sweep_state, at_once=True)
        return self.left()

    def skip_dropped(self) -> None:
        """Pass over trials that were dropped before they had reported anything, and over those
        that the budget does not admit.
        """
        sweep_state = self.sweep_state
        while self.left():
            index = sweep_state.numbers()[self.handed]
            earlier = sweep_state.earlier.get(index)
            not_admitted = sweep_state.allowance.closed and not sweep_state.allowance.has_begun(
                index
            )
            dropped = index in sweep_state.steering.dropped and not (
                earlier is not None and earlier.reports
            )
            if not (dropped or not_admitted):
                return
            self.handed += 1
            self.skipped += 1
            ray.get(sweep_state.coordinator.ended.remote(index))
            if not dropped:
                sweep_state.allowance.not_admitted.add(index)
                continue
            record = sweep_state.records.setdefault(index, Record(index))
            if record.state != "stopped":
                record.state = "stopped"
                sweep_state.journal.append("end", trial=index, state="stopped", error=None)

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
        sweep_state = self.sweep_state
        if (
            self.handed >= self.sweep_state.plan.resources.concurrent
            or self.handed - len(sweep_state.started) < self.starts_at_once
        ):
            return False
        return self.handed - len(sweep_state.started | sweep_state.ended) >= self.starts_at_once

    def on_trial_complete(
        self, trial_id: str, result: JsonObject | None = None, error: bool = False
    ) -> None:
        """Nothing: SweepCallback.end tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""
