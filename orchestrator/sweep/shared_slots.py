"""The slots that the sweeps of a fleet share: who may take the next one. Pure.

A slot that becomes free goes to the task that has the fewest for its weight, of those that have a
trial to start; nobody leaves one empty that another task could use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Sloted(Protocol):
    """A task's trials, as far as slots are concerned; see state.SweepState."""

    slots_taken: set[int]
    """The trials that have a slot."""


class SharedSlots:
    """`capacity` slots for the trials of several tasks. `name` is the fleet's."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.numbers: list[int] = []
        self.tasks: list[Sloted] = []
        self.weights: list[float] = []
        self.wants: list[Callable[[], bool]] = []

    def add(self, number: int, task: Sloted, weight: float, wants: Callable[[], bool]) -> None:
        """Let a task have a share; `wants` tells whether it has a trial to start now."""
        self.numbers.append(number)
        self.tasks.append(task)
        self.weights.append(weight)
        self.wants.append(wants)

    def number_of(self, task: Sloted) -> int:
        """The task's number in its fleet, from 1."""
        return self.numbers[self.place_of(task)]

    def place_of(self, task: Sloted) -> int:
        """Where a task stands among those that share."""
        return next(place for place, other in enumerate(self.tasks) if other is task)

    def load(self, place: int) -> float:
        """How many slots a task has for its weight."""
        return len(self.tasks[place].slots_taken) / self.weights[place]

    def in_turn(self) -> list[int]:
        """The places of the tasks, in the order in which the next slot is offered to them."""
        return sorted(range(len(self.tasks)), key=lambda place: (self.load(place), place))

    def full(self, task: Sloted) -> bool:
        """Whether a task may start none now: all slots are taken, or another one is before it."""
        if sum(len(other.slots_taken) for other in self.tasks) >= self.capacity:
            return True
        mine = self.load(self.place_of(task))
        return any(
            self.load(place) < mine and self.wants[place]()
            for place, other in enumerate(self.tasks)
            if other is not task
        )
