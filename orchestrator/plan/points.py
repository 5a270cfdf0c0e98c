"""The points of a sweep, no two alike, and how many a search space holds. Pure.

What is drawn a second time is drawn again, so that no trial repeats another one to the last bit. A
longer sweep still begins with the shorter one's points: each depends on the space, the seed and the
points before it.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator

from orchestrator.config import simplex
from orchestrator.config.search_space import (
    Knob,
    Point,
    Value,
    link,
    point,
    rounded,
    stepped,
    weights,
)
from orchestrator.errors import ConfigError

MOST_DRAWS = 64
"""Draws for one trial before the points that are left are listed: only where most of a space is
used up are so many needed.
"""
GRAIN = 20_000
"""Into so many parts a range is cut to see how many values of four digits it holds; a quarter as
many and more count as endless.
"""

Key = tuple[Value, ...]


def key(a_point: Point) -> Key:
    """What tells a point from others of its space."""
    return tuple(a_point[path] for path in sorted(a_point))


def size(space: dict[str, Knob]) -> float:
    """Number of different points; infinite with a knob over a range that holds more values than
    anyone tries.
    """
    return math.prod(num_values(knob) for knob in space.values() if knob.type != "linked")


def num_values(knob: Knob) -> float:
    """Number of different values of a knob that is not linked."""
    if knob.type == "simplex":
        return simplex.num_mixes(knob.mixes)
    if knob.values is not None:
        return len(set(knob.values))
    if is_stepped(knob):
        return int(((knob.high or 0.0) - (knob.low or 0.0)) / (knob.step or 1) + 1e-9) + 1
    return count_within(knob.low or 0.0, knob.high or 0.0, knob.type == "loguniform")


def is_stepped(knob: Knob) -> bool:
    """Whether a range has values at equal distances only."""
    return knob.type == "randint" or knob.step is not None


@functools.cache
def count_within(low: float, high: float, logarithmic: bool) -> float:
    """Number of values that a range holds; infinite from so many on that nobody tries them all."""
    seen = set[Value]()
    for value in draws(low, high, logarithmic):
        seen.add(value)
        if len(seen) >= GRAIN / 4:
            return math.inf
    return len(seen)


@functools.cache
def within(low: float, high: float, logarithmic: bool) -> list[Value]:
    """Values of four digits that a draw from a range can give; all of them where the range is
    narrow.
    """
    return list(dict.fromkeys(draws(low, high, logarithmic)))


def draws(low: float, high: float, logarithmic: bool) -> Iterator[Value]:
    """The values at equal steps through a range, some of them several times."""
    start, width = (
        (math.log(low), math.log(high) - math.log(low)) if logarithmic else (low, high - low)
    )
    for step in range(GRAIN + 1):
        value = start + step / GRAIN * width
        yield rounded(math.exp(value) if logarithmic else value, low, high)


def all_settings(knob: Knob) -> list[Point]:
    """What a knob that is not linked sets, for each of its different values, in order."""
    if knob.type == "simplex":
        return [weights(mix) for mix in simplex.every_mix(knob.mixes)]
    return [{knob.path: value} for value in all_values(knob)]


def all_values(knob: Knob) -> list[Value]:
    """The different values of a knob that is neither linked nor a simplex, in order."""
    if knob.values is not None:
        return list(dict.fromkeys(knob.values))
    if is_stepped(knob):
        return [stepped(knob, step) for step in range(int(num_values(knob)))]
    return within(knob.low or 0.0, knob.high or 0.0, knob.type == "loguniform")


def every_point(space: dict[str, Knob], fixed: Point) -> Iterator[Point]:
    """All points of a finite space that have the `fixed` values."""
    free = [knob for knob in space.values() if knob.type != "linked" and knob.paths[0] not in fixed]
    for settings in itertools.product(*(all_settings(knob) for knob in free)):
        merged = dict(fixed)
        for setting in settings:
            merged |= setting
        yield link(space, merged)


def first_mixes(space: dict[str, Knob]) -> list[Point]:
    """The mixes that the first trials have, as settings; none without a simplex."""
    return [
        weights(mix)
        for knob in space.values()
        if knob.type == "simplex"
        for mix in [*simplex.first_mixes(knob.mixes, knob.natural), *(knob.merged or [])]
    ]


def first_points(
    space: dict[str, Knob],
    seed: int,
    num_trials: int,
    allows: Callable[[Point], bool] | None = None,
) -> list[Point]:
    """The points of the first trials. Raises ConfigError where a range that looked endless, and the
    space with it, holds fewer, or fewer whose files are small enough.
    """
    points = Points(space, seed, allows)
    try:
        return [points[index] for index in range(1, num_trials + 1)]
    except TooLarge as error:
        raise ConfigError([("sweep.space", str(error))]) from error
    except ValueError as error:
        text = f"{num_trials:,} is too many: {error}; lower it, or add a knob to sweep.space"
        raise ConfigError([("sweep.num_trials", text)]) from error


class TooLarge(ValueError):
    """Points that are left, but whose files no device takes."""


class Points:
    """The points of trials 1, 2, 3 ... of random and grid search: functions of (space, seed,
    index), and of which points are allowed.
    """

    def __init__(
        self,
        space: dict[str, Knob],
        seed: int,
        allows: Callable[[Point], bool] | None = None,
    ) -> None:
        self._space = space
        self._seed = seed
        self._allows = allows or (lambda point: True)
        self._first_mixes = first_mixes(space)
        self._found: list[Point] = []
        self._seen: set[Key] = set()
        self._left: dict[Key, list[Point]] = {}
        """Where draws find nothing new: what is left, by the grid knobs' values."""

    def __getitem__(self, index: int) -> Point:
        """The point of trial `index`, from 1. Raises ValueError where the space holds no more."""
        while len(self._found) < index:
            self._found.append(self._next(len(self._found) + 1))
            self._seen.add(key(self._found[-1]))
        return self._found[index - 1]

    def _next(self, index: int) -> Point:
        drawn = self._draw(index)
        if index <= len(self._first_mixes):
            first = self._with_first_mix(index, drawn)
            if key(first) not in self._seen:
                return first
        grid = {knob.path: drawn[knob.path] for knob in self._space.values() if knob.type == "grid"}
        if key(grid) not in self._left:
            for draw_number in range(MOST_DRAWS):
                drawn = point(self._space, self._seed, index, draw_number)
                if key(drawn) not in self._seen and self._allows(drawn):
                    return drawn
            self._left[key(grid)] = self._rest(index, grid)
        if not self._left[key(grid)]:
            if not self._allows(drawn):
                settings = ", ".join(f"{path}={value}" for path, value in drawn.items())
                raise TooLarge(
                    f"trial {index} would have {settings}, and no other one is left whose file is "
                    "within the device's limit of size; leave such values out, or raise the limit"
                )
            raise ValueError(
                f"the search space holds {len(self._seen)} different points, and no other one for "
                f"trial {index}"
            )
        return self._left[key(grid)].pop()

    def _draw(self, index: int) -> Point:
        """The first draw of a trial that is allowed, or the first of all where none of many is."""
        drawn = [point(self._space, self._seed, index)]
        for draw_number in range(1, MOST_DRAWS):
            if self._allows(drawn[-1]):
                return drawn[-1]
            drawn.append(point(self._space, self._seed, index, draw_number))
        return drawn[0]

    def _with_first_mix(self, index: int, drawn: Point) -> Point:
        """One of the mixes that are always tried, with all else as the first trial has it, so that
        they compare.
        """
        grid = [knob.path for knob in self._space.values() if knob.type == "grid"]
        as_first = drawn if index == 1 else self._found[0]
        walked = {path: drawn[path] for path in grid}
        return link(self._space, as_first | walked | self._first_mixes[index - 1])

    def _rest(self, index: int, grid: Point) -> list[Point]:
        """What is left of the space with these values of the grid knobs, in an order that the seed
        decides.
        """
        left = [
            candidate
            for candidate in every_point(self._space, grid)
            if key(candidate) not in self._seen and self._allows(candidate)
        ]
        random.Random(f"{self._seed}/{index}/left").shuffle(left)
        return left
