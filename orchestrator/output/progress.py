"""Progress on stderr: a live table with bars on a terminal, one plain line per event otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.evaluation import registry
from orchestrator.config.run_numbers import is_finalist
from orchestrator.config.run_numbers import label as run_label
from orchestrator.config.search_space import Point
from orchestrator.output.console import duration, plural, short
from orchestrator.output.heartbeat import print_line
from orchestrator.output.remote_state import RemoteState, tell
from orchestrator.output.time_left import LATE, TimeLeft
from orchestrator.plan.planner import Plan
from orchestrator.storage.spending import Spending

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

TOLD_ENDS = ("finished", "stopped", "failed")
"""Ends after which a trial is not trained again."""
REFRESH_SECONDS = 0.5
LINE_SECONDS = 30.0
"""Without a terminal, a training trial says this often how far it is."""


@dataclass
class Row:
    """What is shown of one trial."""

    point: Point
    step: int = 0
    score: float | None = None
    tokens_per_second: float = 0.0
    state: str = "starting"
    began: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    told: float = field(default_factory=time.monotonic)
    """When the last plain line about this trial was printed."""


class ProgressDisplay:
    """One sweep's progress. `quiet` shows nothing but what the user must know."""

    def __init__(
        self,
        num_trials: int,
        steps: int,
        metric: str,
        left: TimeLeft | None = None,
        minutes: float | None = None,
        spending: Spending | None = None,
    ) -> None:
        """`left` tells how much longer it takes, `minutes` how long it is meant to take or, where
        that is longer, was planned to take, `spending` what is spent of the budget.
        """
        self.spending = spending
        self.num_trials, self.steps, self.metric = num_trials, steps, metric
        self.left = left
        self.minutes = minutes
        self.rows: dict[int, Row] = {}
        self.maximise = registry.problem(metric) is not None or registry.metric_of(metric).maximise
        self.task: str | None = None
        self.quarters: dict[str, int] = {}
        self.furthest: dict[str, int] = {}
        """By task other than training: in which quarter of it that was last told."""
        self.live: Live | None = None
        self.over = False
        self.refreshed = 0.0
        self.ended: set[int] = set()
        """Trials that are over for good, finalists not counted."""

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(
                self.table(), console=Console(stderr=True), auto_refresh=False, transient=False
            )
            self.live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over = True
        if self.live is not None:
            self.refresh(force=True)
            self.live.__exit__(None, None, None)

    def start(self, index: int, point: Point) -> None:
        """A trial starts, or returns from a pause."""
        row = self.rows.setdefault(index, Row(point))
        row.state, row.seconds = "starting", None
        if self.left is not None:
            self.left.start(index)
        if row.step == 0:
            self.line(f"{self.label(index)}  starts")

    def step(self, index: int, step: int, metrics: dict[str, float]) -> None:
        """A trial has taken a step."""
        row = self.rows[index]
        if (
            step > row.step and row.seconds is None
        ):  # the last steps of a trial may be told after its end
            row.step, row.state = step, "training"
            if self.left is not None:
                self.left.step(index, step)
        row.tokens_per_second = metrics.get("train/tokens_per_second", 0.0)
        if self.live is None and time.monotonic() - row.told > LINE_SECONDS:
            row.told = time.monotonic()
            self.line(
                f"{self.label(index)}  step {row.step}/{self.steps}  "
                f"{registry.TRAIN_LOSS} {metrics[registry.TRAIN_LOSS]:.4g}  {self.pace(row)}"
            )

    def goes_on_from(self, index: int, step: int) -> None:
        """An earlier command has left a trial at a step from which this one goes on."""
        if self.left is not None and step > 0:
            self.left.recall(index, step, is_evaluated=False)

    def rung(
        self, index: int, step: int, metrics: dict[str, float], is_known: bool = False
    ) -> None:
        """A trial was evaluated; where that `is_known` from before, by an earlier command."""
        row = self.rows.setdefault(index, Row({}))
        row.step, row.score, row.state = step, metrics.get(self.metric), "waiting"
        if self.left is not None and is_known:
            self.left.recall(index, step)
        elif self.left is not None:
            self.left.evaluate(index, step)
            self.tell_late(self.left)
        row.tokens_per_second = metrics.get("train/tokens_per_second", row.tokens_per_second)
        row.told = time.monotonic()
        shown = "missing" if row.score is None else f"{row.score:.4g}"
        self.line(
            f"{self.label(index)}  step {step}/{self.steps}  {self.metric} {shown}  "
            f"{self.pace(row)}"
        )

    def end(self, index: int, state: str, error: str | None, step: int = 0) -> None:
        """A trial has ended; an earlier command may have brought it further, to this `step`."""
        row = self.rows.setdefault(index, Row({}))
        row.step = max(row.step, step)
        row.state, row.seconds = state, time.monotonic() - row.began
        self.line(
            f"{self.label(index)}  {state}{f': {error}' if error else f' at step {row.step}'}",
            always=error is not None,
        )
        if state in TOLD_ENDS and self.left is not None:
            self.left.end(index)
        if state in TOLD_ENDS and not is_finalist(index):
            self.ended.add(index)
            tell(RemoteState(ended=len(self.ended), total=self.num_trials))

    def say(self, index: int, text: str) -> None:
        """Something about a trial that the user should know."""
        self.line(f"{self.label(index)}  {text}", always=True)

    def note(self, text: str) -> None:
        """One line about the sweep."""
        self.line(text, always=True)

    def progress(self, task: str, done: int, total: int) -> None:
        """How far something other than training is. Messages may overtake one another: what
        tells less than was told is old.
        """
        if done < self.furthest.get(task, 0):
            return
        self.furthest[task] = done
        before, self.task = self.task, f"{task}  {done}/{total}"
        quarter = done * 4 // max(total, 1)
        previous_quarter, self.quarters[task] = self.quarters.get(task), quarter
        if self.left is not None:
            self.left.answer(task, done / max(total, 1))
        if self.live is None and (before is None or previous_quarter != quarter):
            left = "" if self.left is None else f"  {self.time_left(self.left)}"
            self.line(f"{self.task}{left}")
        self.refresh()

    def judging(self, seconds: Mapping[str, float], num_rows: int) -> None:
        """These models meet the test rows from now on; the plan gives their answers so many
        `seconds`.
        """
        self.note(f"judging {' and '.join(seconds)} on {num_rows:,} test rows")
        for name in seconds:
            self.furthest.pop(f"judging {name}", None)
        if self.left is not None:
            self.left.judge({f"judging {name}": value for name, value in seconds.items()})

    def line(self, text: str, always: bool = False) -> None:
        """A plain line; on a terminal only what the table does not show."""
        if self.live is None:
            print_line(text)
        elif always:
            self.live.console.print(text, markup=False, highlight=False)

    def status(self) -> str | None:
        """What goes on, in a line; on a terminal the table is drawn anew instead."""
        if self.over:
            return "ray     ending"
        if self.live is not None:
            self.refresh(force=True)
            return None
        left = "" if self.left is None else f"  {self.time_left(self.left)}"
        left += self.spent()
        if self.task is not None:
            return f"{self.task}{left}"
        rows = list(self.rows.values())
        steps = [row.step for row in rows if row.state in ("training", "waiting")]
        if not steps:
            starting = sum(row.state == "starting" for row in rows)
            return f"{plural(starting, 'trial')} starting{left}" if starting else None
        reached = " to ".join(str(step) for step in sorted({min(steps), max(steps)}))
        return f"{plural(len(steps), 'trial')} at step {reached} of {self.steps}{left}"

    def label(self, index: int) -> str:
        """trial  3/12  rank=16 lr=0.00021"""
        width = len(str(self.num_trials))
        point = short(self.rows[index].point) if index in self.rows else ""
        if is_finalist(index):
            return f"{run_label(index)}  {point}".rstrip()
        return f"trial {index:>{width}}/{self.num_trials}  {point}".rstrip()

    def pace(self, row: Row) -> str:
        """Speed and age, and how much longer the whole command takes."""
        pace = f"{row.tokens_per_second:,.0f} tok/s  {duration(time.monotonic() - row.began)}"
        pace = pace if self.left is None else f"{pace}  {self.time_left(self.left)}"
        return pace + self.spent()

    def spent(self) -> str:
        """What is spent of the budget, where there is one."""
        words = None if self.spending is None else self.spending.words()
        return "" if words is None else f"  {words}"

    @staticmethod
    def time_left(left: TimeLeft) -> str:
        """How much longer the whole command takes."""
        return f"about {duration(left.seconds())} left"

    def tell_late(self, left: TimeLeft) -> None:
        """Say once that the machine is slower than it was when the sweep was planned."""
        if self.minutes is None or left.whole() <= LATE * 60 * self.minutes:
            return
        total_time = duration(left.whole())
        planned = f"{self.minutes:g} minute" + ("" if self.minutes == 1 else "s")
        self.minutes = None
        self.note(f"slower than planned: about {total_time} in all instead of {planned}")

    def refresh(self, force: bool = False) -> None:
        """Redraw the table, at most twice a second."""
        if self.live is not None and (force or time.monotonic() - self.refreshed > REFRESH_SECONDS):
            self.refreshed = time.monotonic()
            self.live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """All trials so far, with a bar each."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(
            box=None, pad_edge=False, header_style="bold", title=self.task, title_justify="left"
        )
        for name in (
            "trial",
            "settings",
            "progress",
            "step",
            self.metric,
            "tok/s",
            "state",
            "time",
        ):
            table.add_column(
                name, justify="right" if name in ("trial", "step", "tok/s", "time") else "left"
            )
        scores = [row.score for row in self.rows.values() if row.score is not None]
        best = max(scores, default=None) if self.maximise else min(scores, default=None)
        for index, row in sorted(self.rows.items()):
            score = "" if row.score is None else f"{row.score:.4g}"
            style = "bold green" if row.score is not None and row.score == best else ""
            age = row.seconds if row.seconds is not None else time.monotonic() - row.began
            bar = ProgressBar(total=self.steps, completed=row.step, width=20)
            cells = (
                f"{row.step}/{self.steps}",
                score,
                f"{row.tokens_per_second:,.0f}",
                row.state,
                duration(age),
            )
            name = run_label(index) if is_finalist(index) else str(index)
            table.add_row(name, short(row.point), bar, *cells, style=style)
        left = self.num_trials - sum(not is_finalist(index) for index in self.rows)
        captions = [f"{plural(left, 'trial')} to come"] if left > 0 else []
        if self.left is not None:
            captions.append(self.time_left(self.left))
        captions += [self.spent().strip()] if self.spent() else []
        table.caption = ", ".join(captions) or None
        return table


def progress_of(plan: Plan, began: float, spending: Spending | None = None) -> ProgressDisplay:
    """The progress of a planned sweep whose command began at a moment of time.monotonic()."""
    left = None
    estimate = plan.estimate
    if estimate is not None:
        final = estimate.final, plan.final.steps(plan.config)
        left = TimeLeft(
            estimate.phases, final, estimate.judging, began, final_start=estimate.final_start
        )
    sweep = plan.config.sweep
    minutes = sweep.minutes if plan.sizes is not None else None
    if minutes is not None and estimate is not None:
        minutes = max(minutes, round(estimate.seconds / 60, 1))
    steps = plan.config.train.steps
    return ProgressDisplay(plan.num_trials, steps, sweep.metric, left, minutes, spending)
