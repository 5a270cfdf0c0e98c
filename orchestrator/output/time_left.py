"""How much longer a sweep takes: the plan's estimate of what is still to be done, corrected by how
long what is done has taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from orchestrator.config.run_numbers import is_finalist
from orchestrator.plan.stretches import seconds_done, seconds_to_come
from orchestrator.plan.timing import Phase

BEGINNING_SECONDS = 0.5
"""So long after the first step others are as much a beginning as that one: trials that train
together have done it at once, and tell it one after another.
"""
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


class TimeLeft:
    """The rest of one sweep, as its steps are told."""

    def __init__(
        self,
        phases: Sequence[Phase],
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
        """When the first steps of this command had been told, and how much was done by then or was
        done by earlier commands.
        """
        self.began_training = began
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
        """A trial has come so far; one that had ended and comes further was started again. What
        passes until a finalist's first step is its start, and says nothing of how fast it trains.
        """
        if self.first is not None and is_finalist(index) and index not in self.reached:
            self.first = self.first[0] + self.clock() - self.last, self.first[1]
        if step > self.reached.get(index, 0):
            self.ended.discard(index)
        self.reached[index] = max(step, self.reached.get(index, 0))
        self.last = self.clock()
        if self.first is None:
            self.began_training = self.last
        if self.last - self.began_training <= BEGINNING_SECONDS:
            self.first = self.last, self.done()

    def evaluate(self, index: int, step: int) -> None:
        """A trial has come so far and met the validation rows there."""
        self.evaluated[index] = max(step, self.evaluated.get(index, 0))
        self.step(index, step)

    def recall(self, index: int, step: int, is_evaluated: bool = True) -> None:
        """An earlier command has brought a trial so far, and evaluated it there: that is done, and
        says nothing of how fast this command is.
        """
        before = self.done()
        if step > self.reached.get(index, 0):
            self.ended.discard(index)
        self.reached[index] = max(step, self.reached.get(index, 0))
        if is_evaluated:
            self.evaluated[index] = max(step, self.evaluated.get(index, 0))
        if self.first is None:
            self.last = self.clock()
        else:
            self.first = self.first[0], self.first[1] + self.done() - before

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
        return seconds_to_come(self.phases, steps, evaluated, alive) + self.final_left()

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
        """Planned seconds of the training that is done."""
        steps = [step for index, step in self.reached.items() if not is_finalist(index)]
        evaluated = [step for index, step in self.evaluated.items() if not is_finalist(index)]
        seconds = seconds_done(self.phases, steps, evaluated)
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
