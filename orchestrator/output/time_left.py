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
"""So long after a first step others are as much a beginning as that one: trials that train
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
        final_start: float = 0.0,
    ) -> None:
        """`final` are the seconds and the steps that the finalists take at most, `began` is when
        the command started. `final_start` is the part of those seconds that passes before their
        first step.
        """
        self.phases = list(phases)
        self.final_seconds, self.final_steps = final[0] - final_start, final[1]
        self.final_start = final_start
        self.judging = judging
        self.began = began
        self.clock = clock
        self.reached: dict[int, int] = {}
        self.evaluated: dict[int, int] = {}
        """By trial: the last step at which it met the validation rows."""
        self.ended: set[int] = set()
        """Trials that train no more."""
        self.starting: set[int] = set()
        """Trials whose process starts, or that return from a pause."""
        self.training: set[int] = set()
        """Trials that have told a step and neither an evaluation nor an end since."""
        self.went_on: dict[int, int] = {}
        """By trial of the search that goes on as a finalist: the step at which it had ended."""
        self.idle_seconds = 0.0
        """How long nothing trained because the next trial of the search had to start."""
        self.later_starts = 0
        """Trials of the search that began after the first ones."""
        self.first: tuple[float, float] | None = None
        """When the first steps of this command had been told, and how much was done by then or was
        done by earlier commands. Both are moved on by what passes while nothing trains.
        """
        self.first_step = began
        self.began_training = began
        """When the training that goes on began: with the first step after nothing trained."""
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

    def start(self, index: int) -> None:
        """A trial's process starts, or the trial returns from a pause."""
        self.training.discard(index)
        self.starting.add(index)

    def step(self, index: int, step: int) -> None:
        """A trial has come so far; one that had ended and comes further was started again."""
        self.tell(index, step, is_evaluated=False)

    def evaluate(self, index: int, step: int) -> None:
        """A trial has come so far and met the validation rows there."""
        self.tell(index, step, is_evaluated=True)
        self.training.discard(index)

    def tell(self, index: int, step: int, is_evaluated: bool) -> None:
        """Take in how far a trial is. What passes until a first step while nothing else trains is
        a start: neither that time nor the steps of that moment say how fast training is.
        """
        now = self.clock()
        reached = self.reached.get(index, 0)
        is_first = index not in self.reached or index in self.starting or index in self.ended
        is_new = index not in self.reached and not is_finalist(index)
        if self.first is None:
            self.began_training = self.first_step = now
        elif is_first and step > reached and not self.training:
            self.began_training = now
            self.idle_seconds += (now - self.last) * is_new
        is_beginning = now - self.began_training <= BEGINNING_SECONDS
        self.later_starts += is_new and now - self.first_step > BEGINNING_SECONDS
        before = self.done() if is_beginning else 0.0

        if step > reached:
            if index in self.ended and not is_finalist(index) and self.final_steps:
                self.went_on.setdefault(index, reached)
            self.ended.discard(index)
            self.starting.discard(index)
            self.training.add(index)
        self.reached[index] = max(step, reached)
        if is_evaluated:
            self.evaluated[index] = max(step, self.evaluated.get(index, 0))

        if self.first is None:
            self.first = now, self.done()
        elif is_beginning:
            began, done = self.first
            self.first = began + now - self.last, done + self.done() - before
        self.last = now

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
        self.starting.discard(index)
        self.training.discard(index)

    def training_left(self) -> float:
        """Planned seconds of the training that can still come: those that trials of the search
        would have taken that have ended are not among them.
        """
        return self.search_left() + self.final_left()

    def search_left(self) -> float:
        """Planned seconds of the search's training that can still come."""
        if not self.phases:
            return 0.0
        ended = {index for index in self.ended if not is_finalist(index)} | self.went_on.keys()
        alive = max(self.phases[0].trials - len(ended), 0)
        steps = self.of_the_search(self.reached)
        evaluated = self.of_the_search(self.evaluated)
        return seconds_to_come(self.phases, steps, evaluated, alive)

    def of_the_search(self, steps: Mapping[int, int]) -> list[int]:
        """Where the trials are that train on in the search, the furthest first."""
        over = self.ended | self.went_on.keys()
        going = [
            step for index, step in steps.items() if not is_finalist(index) and index not in over
        ]
        return sorted(going, reverse=True)

    def final_steps_done(self) -> int:
        """Steps of finalists, and of trials of the search that go on as such."""
        again = sum(step for index, step in self.reached.items() if is_finalist(index))
        return again + sum(self.reached[index] - step for index, step in self.went_on.items())

    def final_left(self) -> float:
        """Planned seconds of the finalists' training that is to come."""
        return self.final_seconds * (
            1 - min(self.final_steps_done() / max(self.final_steps, 1), 1.0)
        )

    def starts_left(self) -> float:
        """Seconds in which nothing will train: the finalists' start, and those of trials of the
        search that have not begun, by how long those before them have taken.
        """
        seconds = self.final_start if self.final_steps_done() == 0 else 0.0
        if self.phases:
            begun = sum(not is_finalist(index) for index in self.reached)
            to_begin = max(self.phases[0].trials - begun, 0)
            seconds += self.idle_seconds * to_begin / max(self.later_starts, 1)
        return seconds

    def within_the_search(self, steps: Mapping[int, int]) -> list[int]:
        """Where the search has brought its trials."""
        return [
            min(step, self.went_on.get(index, step))
            for index, step in steps.items()
            if not is_finalist(index)
        ]

    def done(self) -> float:
        """Planned seconds of the training that is done."""
        steps = self.within_the_search(self.reached)
        evaluated = self.within_the_search(self.evaluated)
        seconds = seconds_done(self.phases, steps, evaluated)
        return seconds + self.final_seconds - self.final_left()

    def planned(self) -> float:
        """Planned seconds of all training, the finalists' start aside."""
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
        """What is left, judgement and registration included. While nothing trains, only the
        finalists' start comes nearer to its end.
        """
        if self.answered:
            return self.judging_seconds()
        factor = self.correction()
        seconds_left = self.training_left() * factor
        seconds_left += self.judging * min(factor, MOST_JUDGING_CORRECTION)
        passed = self.clock() - self.last
        if not self.training:
            passed = passed if self.search_left() == 0 else 0.0
            return seconds_left + max(self.starts_left() - passed, 0.0)
        return max(seconds_left + self.starts_left() - passed, 0.0)

    def whole(self) -> float:
        """What the whole command will have taken."""
        return self.clock() - self.began + self.seconds()
