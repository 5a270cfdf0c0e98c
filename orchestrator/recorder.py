"""What Tune and the workers say, into the journal and onto the screen; and what stopped trials leave behind, back to Ray."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.tune import Callback

from jobs import store
from jobs.config import Assignment
from jobs.roster import free
from orchestrator.board import Board
from orchestrator.credentials import mask
from orchestrator.plan import flat_params, used
from orchestrator.waiting import Waiting

FREE_AFTER_SECONDS = 3.0
DRAIN_SECONDS = 0.5


class Recorder(Callback):
    """Writes what Tune and the workers say into the journal and onto the screen, and frees what stopped trials leave behind."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.started: set[int] = set()
        self.ended: set[int] = set()
        self.kept: set[int] = set()
        """Ended trials whose checkpoints are still on disk: the best of them, and the last."""
        self.to_free: list[tuple[float, str]] = []
        self.drained = 0.0
        self.waiting = Waiting(board)
        board.recorder = self

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's first start, or its return from a pause."""
        index = trial.config["index"]
        if index not in self.started:
            self.started.add(index)
            assignment: Assignment = trial.config["assignment"]
            params = flat_params(self.board.config, assignment.trial)
            datasets = used(self.board.plan, assignment.trial)
            self.board.journal.append(
                "trial", trial=index, point=self.board.records[index].point, params=params, datasets=datasets, **self.board.common
            )
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
            checkpoint = result.get("checkpoint_path")
            if checkpoint and store.is_uri(self.board.config.storage) and not store.is_uri(checkpoint):
                checkpoint = f"{self.board.config.storage.partition('://')[0]}://{checkpoint}"  # Ray Train leaves the scheme out
            if checkpoint:
                record.checkpoints[step] = checkpoint
            self.board.journal.append("report", trial=index, step=step, metrics=metrics, checkpoint=checkpoint)
        self.board.screen.rung(index, step, record.reports[step])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that reached its end or was stopped."""
        index = trial.config["index"]
        done = max(self.board.records[index].reports, default=0) >= self.board.config.train.steps
        self.end(index, "finished" if done else "interrupted" if self.board.interrupted else "stopped", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that failed."""
        index = trial.config["index"]
        why: Any = ray.get(self.board.roster.failure.remote(index))
        self.end(index, "failed", mask(why or "the trial's process died (see the memory of the machine)"))

    def end(self, index: int, state: str, error: str | None) -> None:
        """Write down how a trial ended, once."""
        if index in self.ended:
            return
        self.ended.add(index)
        board = self.board
        board.seats.discard(index)
        self.release(index)
        ray.get(board.roster.ended.remote(index))
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
        ended = self.kept | {present}
        ranked = [(rank, index) for index in ended if (rank := self.board.rank(self.board.records[index])) is not None]
        self.kept = {present, max(ranked)[1]} if ranked else {present}
        for index in ended - self.kept:
            store.remove(self.board.place("train", f"trial-{index:03d}"))

    def release(self, index: int) -> None:
        """Have the trial's placement group removed once its own processes are gone: a living controller would ask for a new one."""
        if self.board.packed:
            return  # the group is its pack's
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
            if self.board.packed and self.board.aside is None:
                verdict: Any = ray.get(self.board.roster.verdict.remote())
                self.board.aside = (verdict or {}).get("aside")
        self.waiting.look(self.started - self.ended)
        self.board.screen.refresh()

    def drain(self) -> None:
        """Take the workers' posts into the journal and onto the screen."""
        for post in ray.get(self.board.roster.drain.remote()):
            if post["kind"] == "say" and post["trial"] == 0:
                self.board.journal.append("tags", t=post["t"], trial=None, tags={"note": post["text"]})
                self.board.screen.note(post["text"])
                continue
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


def hopeless(board: Board) -> str | None:
    """Why the sweep should not go on: its first trials have all failed alike and none has scored."""
    if any(record.reports for record in board.records.values()):  # the first trial has, mostly: so this comes before the long lists
        return None
    failed = [record for record in board.records.values() if record.state == "failed"]
    if len(failed) < min(board.config.sweep.give_up_after, board.plan.num_trials):
        return None
    reasons = {(record.error or "").split("(")[0][:60] for record in failed}
    return (
        f"the first {len(failed)} trials failed for the same reason: {failed[0].error}" if len(reasons) == 1 and len(failed) > 1 else None
    )
