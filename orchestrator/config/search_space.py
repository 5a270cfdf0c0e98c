"""The search space: which points a sweep tries, in which order. Pure.

Every point is a function of (space, seed, position), so that the same command names the same trials
and a longer sweep begins with the shorter one's.
"""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import field
from typing import Literal

from jobs.config import config, require
from orchestrator.config import simplex
from orchestrator.config.simplex import Mix, Simplex

Value = int | float | str | bool
Point = dict[str, Value]
"""Dotted path of a setting -> its value in one trial."""


SOURCES = "data.sources"
"""What a simplex stands for: the weights of sources."""


@config
class Bounds:
    """The least and the most that a source's share of a mix may be."""

    low: float = 0.0
    high: float = 1.0


@config
class Knob:
    """One searched setting; a simplex searches the weights of several sources together."""

    path: str
    """Dotted path of the setting, such as optim.lr. Of a simplex data.sources, which needs not be
    written.
    """
    type: Literal["choice", "grid", "uniform", "loguniform", "randint", "linked", "simplex"]
    """choice and grid take `values`; uniform, loguniform and randint take `low` and `high`; linked
    follows another knob; simplex takes `simplex` and `bounds`.
    """
    values: list[Value] | None = None
    """choice: drawn at random; one that stands there twice is drawn more often. grid: every
    combination of all grid knobs is tried. linked: one value per value of the knob in `to`.
    """
    low: float | None = None
    """Smallest value, included."""
    high: float | None = None
    """Largest value, included."""
    step: float | None = None
    """Rounds a uniform or randint value to low + a multiple of this."""
    to: str | None = None
    """linked: dotted path of the searched setting that this one follows."""
    times: float = 1.0
    """linked: value = times * other + plus."""
    plus: float = 0.0
    """linked: value = times * other + plus."""
    first: list[Value] | None = None
    """Values of the first trials, in their order; those after them are drawn. Of a grid every value
    is tried, and a linked knob follows another: neither has any.
    """
    simplex: list[str] | None = None
    """simplex: the sources that are mixed, with shares that add up to 1. None: all sources."""
    bounds: dict[str, Bounds] | None = None
    """simplex: the least and the most of a source, as {NAME: {low: 0.1, high: 0.8}}."""
    natural: Mix | None = field(default=None, init=False)
    """Each source's share of all rows. No setting: the plan counts them."""
    merged: list[Mix] | None = field(default=None, init=False)
    """The best mixes by merging experts, best first. No setting: mix.method=merge finds them."""
    optional: bool = False
    """Leave this knob out of the search when the configuration has no such setting; otherwise that
    is an error.
    """

    def __post_init__(self) -> None:
        where = f"{self.path} ({self.type})"
        if self.type in ("choice", "grid"):
            values = self.values or []
            can_repeat = self.type == "choice" and len(set(values)) > 1
            twice = next((value for value in values if values.count(value) > 1), None)
            require(
                (bool(values), f"{where} needs `values`, a list with at least one value"),
                (
                    twice is None or can_repeat,
                    f"{where}: {twice} stands twice in `values`, and two trials would be the same; "
                    "write it once",
                ),
            )
        elif self.type == "simplex":
            self._check_simplex(where)
        elif self.type == "linked":
            finite = math.isfinite(self.times) and math.isfinite(self.plus)
            require(
                (
                    self.to is not None,
                    f"{where} needs `to`, the dotted path of another searched setting",
                ),
                (
                    finite,
                    f"{where}: `times` and `plus` must be finite, got {self.times} and {self.plus}",
                ),
            )
        else:
            self._check_range(where)
        stepped = self.step is None or self.type in ("uniform", "randint")
        require((stepped, f"{where}: `step` goes with uniform and randint only"))
        self._check_first(where)

    def as_grid(self) -> Knob:
        """A choice of which each value is tried once."""
        values = list(dict.fromkeys(self.values or []))
        return dataclasses.replace(self, type="grid", values=values, first=None)

    def _check_first(self, where: str) -> None:
        """Refuse values of the first trials that no draw could give."""
        if self.first is None:
            return
        drawn = self.type not in ("grid", "linked")
        require(
            (drawn, f"{where}: `first` goes with choice, uniform, loguniform and randint only"),
            (bool(self.first), f"{where}: `first` needs at least one value, or none of it at all"),
        )
        for value in self.first:
            require((self.holds(value), f"{where}: `first` holds {value}, which is not searched"))

    def holds(self, value: Value) -> bool:
        """Whether a draw could give this value."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, bool | str) or not math.isfinite(value):
            return False
        low, high = self.low or 0.0, self.high or 0.0
        if not low <= value <= high or (self.type == "randint" and value != int(value)):
            return False
        steps = 0.0 if self.step is None else (value - low) / self.step
        return abs(steps - round(steps)) < 1e-6

    def _check_simplex(self, where: str) -> None:
        names = self.simplex or []
        twice = next((name for name in names if names.count(name) > 1), None)
        require(
            (
                self.path == SOURCES,
                f"{where} searches the weights of sources: leave `path` out, and name them in "
                "`simplex`",
            ),
            (self.simplex is None or bool(names), f"{where}: `simplex` names no source"),
            (twice is None, f"{where}: {twice} stands twice in `simplex`"),
            *(
                (
                    0 <= bounds.low <= bounds.high <= 1,
                    f"{where}: the share of {name} needs 0 <= low <= high <= 1, got "
                    f"{bounds.low:g} and {bounds.high:g}",
                )
                for name, bounds in (self.bounds or {}).items()
            ),
        )

    @property
    def paths(self) -> list[str]:
        """Dotted paths of all settings that the knob sets."""
        if self.type != "simplex":
            return [self.path]
        return [weight_path(name) for name in self.simplex or []]

    @property
    def mixes(self) -> Simplex:
        """The sources of a simplex with their bounds."""
        names = tuple(self.simplex or [])
        bounds = [(self.bounds or {}).get(name, Bounds()) for name in names]
        low, high = tuple(each.low for each in bounds), tuple(each.high for each in bounds)
        return Simplex(names, low, high)

    def _check_range(self, where: str) -> None:
        require((self.low is not None and self.high is not None, f"{where} needs `low` and `high`"))
        low = self.low or 0.0
        high = self.high or 0.0
        are_integers = (
            low == int(low) and high == int(high)
            if math.isfinite(low) and math.isfinite(high)
            else False
        )
        require(
            (
                math.isfinite(low) and math.isfinite(high),
                f"{where}: `low` and `high` must be finite, got {low} and {high}",
            ),
            (
                not math.isinf((high - low) / (self.step or 1)),
                f"{where}: the range {low:g}..{high:g} is too wide for its `step`, or at all",
            ),
            (not low > high, f"{where}: `low` ({low:g}) must not be above `high` ({high:g})"),
            (
                self.type != "loguniform" or low > 0,
                f"{where}: `low` must be above 0 on a logarithmic scale, got {low:g}",
            ),
            (
                self.step is None or 0 < self.step < math.inf,
                f"{where}: `step` must be a finite number above 0, got {self.step}",
            ),
            (
                self.type != "randint" or are_integers,
                f"{where}: `low` and `high` must be whole numbers",
            ),
            (
                self.type != "randint" or self.step is None or self.step % 1 == 0,
                f"{where}: `step` must be a whole number",
            ),
        )

    def describe(self) -> str:
        """One short phrase for the plan."""
        if self.type == "linked":
            return f"{self.path} linked to {self.to}"
        if self.type == "simplex":
            mixes = self.mixes
            shares = [
                f"{name} {low:g}..{high:g}"
                for name, low, high in zip(mixes.names, mixes.low, mixes.high, strict=True)
            ]
            return f"mix of {', '.join(shares)}"
        first = ""
        if self.first is not None:
            first = f" from {', '.join(str(value) for value in self.first)} on"
        if self.type in ("choice", "grid"):
            return f"{self.path} {', '.join(str(v) for v in self.values or [])}{first}"
        return f"{self.path} {self.type} {self.low:g}..{self.high:g}{first}"


def weight_path(source: str) -> str:
    """Dotted path of a source's weight."""
    return f"{SOURCES}.{source}.weight"


def weights(mix: Mix) -> Point:
    """A mix as settings."""
    return {weight_path(name): share for name, share in mix.items()}


def mix_of(knob: Knob, point: Point) -> Mix:
    """What a point has of the sources of a simplex."""
    return {name: float(point[weight_path(name)]) for name in knob.simplex or []}


def grid_size(space: dict[str, Knob]) -> int:
    """Number of combinations of the grid knobs; 1 when there are none."""
    return math.prod(len(knob.values or []) for knob in space.values() if knob.type == "grid")


def point(space: dict[str, Knob], seed: int, index: int, draw_number: int = 0) -> Point:
    """A point for trial `index` (from 1): grid knobs walk their combinations, the others take their
    `first` values, and then are drawn from (seed, index, knob name).

    Another `draw_number` gives another draw.
    """
    chosen: Point = {}
    remaining = index - 1
    for knob in reversed(
        [knob for knob in space.values() if knob.type == "grid"]
    ):  # the last one changes fastest
        values = knob.values or []
        remaining, position = divmod(remaining, len(values))
        chosen[knob.path] = values[position]
    again = f"/{draw_number}" if draw_number else ""
    begun = {} if draw_number else first_values(space, index)
    for name, knob in space.items():
        stream = random.Random(f"{seed}/{index}/{name}{again}")
        if knob.path in begun:
            chosen[knob.path] = begun[knob.path]
        elif knob.type == "simplex":
            chosen |= weights(simplex.draw(knob.mixes, stream))
        elif knob.type not in ("grid", "linked"):
            chosen[knob.path] = draw(knob, stream)
    return link(space, chosen)


def first_values(space: dict[str, Knob], index: int) -> Point:
    """What the knobs say of trial `index` (from 1), by setting; empty after the first trials."""
    return {
        knob.path: knob.first[index - 1]
        for knob in space.values()
        if knob.first is not None and index <= len(knob.first)
    }


def link(space: dict[str, Knob], chosen: Point) -> Point:
    """`chosen` with the linked settings filled in, in the order of the space."""
    point = dict(chosen)
    for knob in space.values():
        if knob.type == "linked":
            point[knob.path] = follow(knob, space, point[knob.to or ""])
    return {path: point[path] for knob in space.values() for path in knob.paths}


def follow(knob: Knob, space: dict[str, Knob], leader_value: Value) -> Value:
    """The value of a linked knob, given the value it follows."""
    if knob.values is not None:
        leader = next(k for k in space.values() if knob.to in k.paths)
        return knob.values[(leader.values or []).index(leader_value)]
    if isinstance(leader_value, str):
        raise ValueError(
            f"{knob.path} is linked to {knob.to}, which holds the text {leader_value!r}: "
            f"give `values`, one per value of {knob.to}"
        )
    linked = knob.times * leader_value + knob.plus
    return (
        int(linked)
        if isinstance(leader_value, int) and float(linked).is_integer()
        else round(linked, 12)
    )


def extremes(knob: Knob, space: dict[str, Knob]) -> list[Value]:
    """The values of a knob that its setting may refuse: those of a list, the ends of a range and
    one between them.
    """
    if knob.values is not None:
        return knob.values
    if knob.type == "simplex":
        return [*knob.mixes.low, *knob.mixes.high]
    if knob.type == "linked":
        leaders = [k for k in space.values() if knob.to in k.paths and k.type != "linked"]
        return [
            follow(knob, space, value)
            for leader in leaders
            for value in extremes(leader, space)
            if not isinstance(value, str)
        ]
    low = knob.low or 0.0
    high = knob.high or 0.0
    if knob.type == "randint":
        return [int(low), int(high)]
    between = (
        low + knob.step
        if knob.step is not None
        else rounded(low + 0.3819 * (high - low), low, high)
    )
    return [low, high, min(round(between, 12), high)]


def draw(knob: Knob, random_stream: random.Random) -> Value:
    """One value of a knob that is neither grid nor linked."""
    if knob.type == "choice":
        return random_stream.choice(knob.values or [])
    low = knob.low or 0.0
    high = knob.high or 0.0
    if knob.type == "loguniform":
        return rounded(math.exp(random_stream.uniform(math.log(low), math.log(high))), low, high)
    if knob.type == "randint" and knob.step is None:
        return random_stream.randint(int(low), int(high))
    if knob.step is None:
        return rounded(random_stream.uniform(low, high), low, high)
    return stepped(knob, random_stream.randint(0, int((high - low) / knob.step + 1e-9)))


def stepped(knob: Knob, step_index: int) -> Value:
    """Value `step_index` (from 0) of a knob with finitely many between its ends."""
    value = (knob.low or 0.0) + (knob.step or 1) * step_index
    return round(value) if knob.type == "randint" else round(value, 12)


def rounded(value: float, low: float, high: float) -> float:
    """`value` to four significant digits, so that it can be read and typed, and still within its
    range.
    """
    return min(max(float(f"{value:.4g}"), low), high)
