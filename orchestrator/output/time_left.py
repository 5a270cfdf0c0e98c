"""How much longer a sweep takes: the plan's estimate of what is still to be done, corrected by how
long what is done has taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from orchestrator.config.run_numbers import is_finalist

ENOUGH_SECONDS = 5.0
ENOUGH_SHARE = 0.02
"""The estimate is corrected once so much has been done, of the training that was planned."""
MOST_CORRECTION = 50.0
MOST_JUDGING_CORRECTION = 3.0
"""A machine that is busy delays the judgement too, but what a small model's many short steps lose
is not lost there.
"""
ENOUGH_JUDGED = 0.1
"""The judgement is reckoned by its own pace once so much of it is done."""
LATE = 1.2
"""It is said when the whole command will take so many times its time."""


class Stretch(Protocol):
    """A part of the search in which the same number of trials train."""

    @property
    def trials(self) -> int: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def evaluating(self) -> float: ...
    @property
    def every(self) -> int: ...


class TimeLeft:
    """The rest of one sweep, as its steps are told."""

    def __init__(
        self,
        phases: Sequence[Stretch],
        final: tuple[float, int],
        judging: float,
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`final` are the seconds and the steps that the finalists take at most, `began` is when
        the command started.
        """
        self.phases = list(phases)
        self.final_seconds, self.final_steps = final
        self.judging = judging
        self.began = began
        self.clock = clock
        self.reached: dict[int, int] = {}
        self.evaluated: dict[int, int] = {}
        """By trial: the last step at which it met the validation rows."""
        self.ended: set[int] = set()
        """Trials that train no more."""
        self.first: tuple[float, float] | None = None
        """When the first step was told, and how much was done by then."""
        self.last = clock()
        self.answered: dict[str, float] = {}
        """By model that meets the test rows: the share of them that it has answered."""
        self.weights: dict[str, float] = {}
        """By model: what all of its answers take, by the plan."""
        self.judging_began = self.last

    def judge(self, seconds: Mapping[str, float]) -> None:
        """These models meet the test rows from now on; the plan gives their answers so many
        `seconds`.
        """
        if not self.answered:
            self.judging_began = self.clock()
        for name, value in seconds.items():
            self.weights.setdefault(name, value)
            self.answered.setdefault(name, 0.0)

    def answer(self, name: str, share: float) -> None:
        """A model has answered so much of the test rows."""
        self.judge({name: 1.0})
        self.answered[name] = share

    def judging_seconds(self) -> float:
        """What is left of the judgement that has begun."""
        passed = self.clock() - self.judging_began
        done = sum(self.weights[name] * share for name, share in self.answered.items())
        done /= sum(self.weights.values())
        if done >= ENOUGH_JUDGED:
            return passed * (1 - done) / done
        factor = min(self.correction(), MOST_JUDGING_CORRECTION)
        return max(self.judging * factor - passed, 0.0)

    def step(self, index: int, step: int) -> None:
        """A trial has come so far; one that had ended and comes further was started again."""
        if step > self.reached.get(index, 0):
            self.ended.discard(index)
        self.reached[index] = max(step, self.reached.get(index, 0))
        self.last = self.clock()
        if self.first is None:
            self.first = self.last, self.done()

    def evaluate(self, index: int, step: int) -> None:
        """A trial has come so far and met the validation rows there."""
        self.evaluated[index] = max(step, self.evaluated.get(index, 0))
        self.step(index, step)

    def end(self, index: int) -> None:
        """A trial trains no more, wherever it has come to."""
        self.ended.add(index)

    def training_left(self) -> float:
        """Planned seconds of the training that can still come: those that trials of the search
        would have taken that have ended are not among them.
        """
        if not self.phases:
            return self.final_left()
        ended = sum(not is_finalist(index) for index in self.ended)
        alive = max(self.phases[0].trials - ended, 0)
        steps = self.of_the_search(self.reached)
        evaluated = self.of_the_search(self.evaluated)
        seconds = 0.0
        for phase in self.phases:
            to_come = share_to_come(phase, steps, alive, 1)
            seconds += (phase.seconds - phase.evaluating) * to_come
            if phase.evaluating > 0:
                seconds += phase.evaluating * share_to_come(phase, evaluated, alive, phase.every)
        return seconds + self.final_left()

    def of_the_search(self, steps: Mapping[int, int]) -> list[int]:
        """Where the trials are that train on, the furthest first."""
        going = [
            step
            for index, step in steps.items()
            if not is_finalist(index) and index not in self.ended
        ]
        return sorted(going, reverse=True)

    def final_left(self) -> float:
        """Planned seconds of the finalists' training that is to come."""
        again = sum(step for index, step in self.reached.items() if is_finalist(index))
        return self.final_seconds * (1 - min(again / max(self.final_steps, 1), 1.0))

    def done(self) -> float:
        """Planned seconds of the training that is done. Evaluations count when they have been: they
        may take as long as all steps before them.
        """
        steps = [step for index, step in self.reached.items() if not is_finalist(index)]
        evaluated = [step for index, step in self.evaluated.items() if not is_finalist(index)]
        seconds = 0.0
        for phase in self.phases:
            trained = share_of(phase, steps, 1)
            seconds += (phase.seconds - phase.evaluating) * trained
            if phase.evaluating > 0:
                seconds += phase.evaluating * share_of(phase, evaluated, phase.every)
        return seconds + self.final_seconds - self.final_left()

    def planned(self) -> float:
        """Planned seconds of all training."""
        return sum(phase.seconds for phase in self.phases) + self.final_seconds

    def correction(self) -> float:
        """How much longer training takes than was planned, by what is done."""
        if self.first is None:
            return 1.0
        began, before = self.first
        done = self.done() - before
        if done < max(ENOUGH_SHARE * self.planned(), 1e-9) or self.last - began < ENOUGH_SECONDS:
            return 1.0
        factor = (self.last - began) / done
        return min(max(factor, 1 / MOST_CORRECTION), MOST_CORRECTION)

    def seconds(self) -> float:
        """What is left, judgement and registration included."""
        if self.answered:
            return self.judging_seconds()
        factor = self.correction()
        seconds_left = self.training_left() * factor
        seconds_left += self.judging * min(factor, MOST_JUDGING_CORRECTION)
        return max(seconds_left - (self.clock() - self.last), 0.0)

    def whole(self) -> float:
        """What the whole command will have taken."""
        return self.clock() - self.began + self.seconds()


def share_of(phase: Stretch, steps: list[int], every: int) -> float:
    """Which share of a stretch's moments, `every` steps apart and one at its end, lies behind
    trials that have come to `steps`.
    """
    most = phase.trials * moments(phase, phase.end, every)
    passed = sum(moments(phase, step, every) for step in steps)
    return min(passed / max(most, 1), 1.0)


def share_to_come(phase: Stretch, steps: list[int], alive: int, every: int) -> float:
    """Which share of a stretch's moments lies before the trials that will pass it: as many as were
    planned, or as are `alive` where fewer are. `steps` are where these are, the furthest first; who
    is not among them has not begun.
    """
    each = moments(phase, phase.end, every)
    count = min(phase.trials, alive)
    passed = sum(moments(phase, step, every) for step in steps[:count])
    return max(count * each - passed, 0) / max(phase.trials * each, 1)


def moments(phase: Stretch, step: int, every: int) -> int:
    """How many moments of a stretch lie behind a trial that has come to a step."""
    step = min(max(step, phase.begin), phase.end)
    within = (step // every) - (phase.begin // every)
    return within + int(step == phase.end and step % every > 0)
