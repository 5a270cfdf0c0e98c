"""Which trials of a pack need not train to their next rung, by their training losses. Pure.

Implementation notes
--------------------
- *Diverged*: the mean of the last WINDOW losses is DIVERGED times the loss of the trial's first
  step, which is the untouched base's. So high a rate does not come back.
- *Left behind*: trials on the same rows at the same step have the same batches, so their losses
  compare. One whose mean over the last WINDOW steps is BEHIND times that of as many others as
  survive a rung (two at least; by LEAST_BEHIND at least), and which at its present pace does not
  reach them until the rung, is stopped there.
- *Determinism*: losses are looked at per step, of trials that train in this step, and are part of
  a slot's checkpoint. So it makes no difference which process was faster, nor whether the sweep was
  interrupted.
- *Invariants*: of the trials that train in a step one goes on, whatever the losses; what is not
  finite is left to the engine, which fails the trial.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from jobs.config import Trial

WINDOW = 5
DIVERGED = 1.5
BEHIND, LEAST_BEHIND = 1.3, 0.1
FEWEST_LEADERS = 2


@dataclass(frozen=True)
class Course:
    """One trial that trains in this step."""

    losses: list[float]
    """Of its first step and of the last ones, the newest last."""
    step: int
    rung: int
    """The step at which it is compared next."""
    rows: Hashable
    """What decides its batches."""

    @property
    def window(self) -> float:
        """The mean of the newest losses."""
        return sum(self.losses[-WINDOW:]) / WINDOW

    def at_rung(self) -> float:
        """The loss that its present pace leads to."""
        before = sum(self.losses[-2 * WINDOW : -WINDOW]) / WINDOW
        return self.window - (before - self.window) / WINDOW * (self.rung - self.step)


def stopped(courses: Mapping[int, Course], reduction: int) -> dict[int, str]:
    """Who stops now, by trial, with the reason. One in `reduction` survives a rung."""
    ready = {
        index: course
        for index, course in courses.items()
        if course.step < course.rung and len(course.losses) > 2 * WINDOW
    }
    finite = {
        index: course
        for index, course in ready.items()
        if all(math.isfinite(loss) for loss in course.losses)
    }
    ended = {
        index: f"its loss has diverged: {course.window:.3g} after {course.losses[0]:.3g} at first"
        for index, course in finite.items()
        if course.window >= DIVERGED * course.losses[0]
    }
    for rows in {course.rows: None for course in finite.values()}:
        group = {
            index: course
            for index, course in finite.items()
            if course.rows == rows and index not in ended
        }
        ended |= left_behind(group, reduction)
    if len(ended) == len(courses):
        del ended[min(ended, key=lambda index: (courses[index].window, index))]
    return ended


def left_behind(group: Mapping[int, Course], reduction: int) -> dict[int, str]:
    """Who of trials on the same rows, at any steps, is left behind by others at its step."""
    ended = {}
    for index, course in group.items():
        peers = sorted(other.window for other in group.values() if other.step == course.step)
        leaders = max(FEWEST_LEADERS, math.ceil(len(peers) / reduction))
        if len(peers) <= leaders:
            continue
        reached = peers[leaders - 1]
        behind = course.window > max(BEHIND * reached, reached + LEAST_BEHIND)
        if behind and course.at_rung() > reached:
            ended[index] = (
                f"{leaders} others on the same rows are far ahead: a loss of {course.window:.3g}, "
                f"theirs at most {reached:.3g}"
            )
    return ended


def remembered(losses: list[float]) -> list[float]:
    """What of a trial's losses is looked at later: the first and the last ones."""
    return losses if len(losses) <= 2 * WINDOW + 1 else [losses[0], *losses[-2 * WINDOW :]]


def rows_of(trial: Trial) -> Hashable:
    """What decides a trial's batches."""
    data = trial.data
    mix = tuple(
        (name, source.weight, source.epochs) for name, source in sorted(data.sources.items())
    )
    shown = (data.neighbours, data.instruction)
    return trial.seed, mix, trial.train.batch_size, shown
