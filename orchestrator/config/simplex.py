"""The mixes that a sweep tries: shares of sources that add up to 1, each within its bounds. Pure.

A mix of k sources is a point of a simplex, and has k - 1 coordinates between 0 and 1 by *stick
breaking*: in the order of the sources each takes a piece of what is left of a stick of length 1,
and the last one gets the rest. A source that is followed by m others takes the piece

    low + (longest - low) * (1 - (1 - u) ** (1 / m))

where u is its coordinate and `longest` what the bounds of the others leave it. With that power
coordinates that are drawn uniformly give mixes that are uniform on the simplex (a piece is then
distributed as Beta(1, m)), so a box of independent coordinates is all that a search has to know.
Upper bounds that bite cut the box: random search draws again until a mix lies within them, and the
coordinates of a mix are those of the piece between the shortest and the longest that it may have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

GRAIN = 1_000
"""Shares are drawn in so many parts, so that they can be read and typed."""
MOST_DRAWS = 1_000
ENDLESS = 5_000
"""Where there are so many mixes nobody tries them all."""


@dataclass(frozen=True)
class Simplex:
    """Sources and the least and the most that each may have."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def ends(self) -> list[tuple[int, int]] | None:
        """The bounds in parts of GRAIN; None where they are too narrow for those."""
        ends = [
            (math.ceil(low * GRAIN - 1e-9), math.floor(high * GRAIN + 1e-9))
            for low, high in zip(self.low, self.high, strict=True)
        ]
        fits = sum(low for low, _ in ends) <= GRAIN <= sum(high for _, high in ends)
        return ends if fits and all(low <= high for low, high in ends) else None


Mix = dict[str, float]
"""Share by source; the shares add up to 1."""


def problem(simplex: Simplex) -> str | None:
    """Why there are no two mixes within the bounds."""
    if sum(simplex.low) > 1 + 1e-9:
        return f"the `low` of its sources add up to {sum(simplex.low):g}, above 1; lower one"
    if sum(simplex.high) < 1 - 1e-9:
        return f"the `high` of its sources add up to {sum(simplex.high):g}, below 1; raise one"
    if num_mixes(simplex) < 2:
        return "the bounds leave one mix, so there is nothing to search; widen one"
    return None


def from_coordinates(simplex: Simplex, coordinates: list[float]) -> Mix:
    """The mix at some coordinates between 0 and 1."""
    mix: Mix = {}
    left = 1.0
    for at, coordinate in enumerate(coordinates):
        shortest, longest = piece(simplex, at, left)
        others = len(simplex.names) - at - 1
        share = shortest + (longest - shortest) * (1 - (1 - coordinate) ** (1 / others))
        mix[simplex.names[at]] = share
        left -= share
    mix[simplex.names[-1]] = max(left, 0.0)
    return mix


def coordinates_of(simplex: Simplex, mix: Mapping[str, float]) -> list[float]:
    """The coordinates of a mix."""
    coordinates = []
    total = sum(mix[name] for name in simplex.names) or 1.0
    left = 1.0
    for at, name in enumerate(simplex.names[:-1]):
        shortest, longest = piece(simplex, at, left)
        share = mix[name] / total
        others = len(simplex.names) - at - 1
        taken = (share - shortest) / (longest - shortest) if longest - shortest > 1e-12 else 0.0
        coordinates.append(1 - (1 - min(max(taken, 0.0), 1.0)) ** others)
        left -= share
    return coordinates


def piece(simplex: Simplex, at: int, left: float) -> tuple[float, float]:
    """The shortest and the longest piece of what is left of the stick that source `at` may take."""
    shortest = max(simplex.low[at], left - sum(simplex.high[at + 1 :]))
    longest = min(simplex.high[at], left - sum(simplex.low[at + 1 :]))
    return shortest, max(longest, shortest)


def draw(simplex: Simplex, stream: random.Random) -> Mix:
    """A mix that is uniform among those within the bounds; where the upper ones leave hardly any
    of the simplex, it is uniform in its coordinates.
    """
    open_above = Simplex(simplex.names, simplex.low, (1.0,) * len(simplex.names))
    for _ in range(MOST_DRAWS):
        coordinates = [stream.random() for _ in simplex.names[1:]]
        mix = from_coordinates(open_above, coordinates)
        if all(mix[name] <= high for name, high in zip(simplex.names, simplex.high, strict=True)):
            return rounded(simplex, mix)
    return rounded(simplex, from_coordinates(simplex, [stream.random() for _ in simplex.names[1:]]))


def rounded(simplex: Simplex, mix: Mapping[str, float]) -> Mix:
    """The nearest mix in whole parts of GRAIN that lies within the bounds."""
    ends = simplex.ends
    if ends is None:
        return {name: round(mix[name], 6) for name in simplex.names}
    exact = [mix[name] * GRAIN for name in simplex.names]
    parts = [
        min(max(math.floor(share), low), high)
        for share, (low, high) in zip(exact, ends, strict=True)
    ]
    while (missing := GRAIN - sum(parts)) != 0:
        sign = 1 if missing > 0 else -1
        free = [
            at for at, (low, high) in enumerate(ends) if low <= parts[at] + sign <= high
        ]  # never empty: the bounds' sums lie on both sides of GRAIN
        parts[max(free, key=lambda at: sign * (exact[at] - parts[at]))] += sign
    return {name: count / GRAIN for name, count in zip(simplex.names, parts, strict=True)}


def nearest(simplex: Simplex, mix: Mapping[str, float]) -> Mix:
    """The mix within the bounds that is nearest to another one, by the sum of squares."""
    exact = [mix[name] for name in simplex.names]
    below, above = -2.0, 2.0
    for _ in range(100):
        middle = (below + above) / 2
        total = sum(
            min(max(share + middle, low), high)
            for share, low, high in zip(exact, simplex.low, simplex.high, strict=True)
        )
        below, above = (middle, above) if total < 1 else (below, middle)
    return {
        name: round(min(max(share + above, low), high), 6)
        for name, share, low, high in zip(
            simplex.names, exact, simplex.low, simplex.high, strict=True
        )
    }


def uniform(simplex: Simplex) -> Mix:
    """The same share of each source, or what the bounds have nearest to it."""
    return nearest(simplex, dict.fromkeys(simplex.names, 1 / len(simplex.names)))


def first_mixes(simplex: Simplex, natural: Mapping[str, float] | None) -> list[Mix]:
    """The mixes that every sweep tries first: by size, where the sizes are there, and uniform."""
    by_size = [] if natural is None else [nearest(simplex, natural)]
    return [*by_size, uniform(simplex)]


def num_mixes(simplex: Simplex) -> float:
    """How many mixes of whole parts lie within the bounds; infinite where nobody tries them all."""
    ends = simplex.ends
    if ends is None:
        narrow = all(high - low < 1e-9 for low, high in zip(simplex.low, simplex.high, strict=True))
        return 1 if narrow else math.inf
    ways = [1] + [0] * GRAIN
    for low, high in ends:
        sums = [0]
        for count in ways:
            sums.append(sums[-1] + count)
        ways = [
            sums[max(total - low + 1, 0)] - sums[max(total - high, 0)] for total in range(GRAIN + 1)
        ]
    return ways[GRAIN] if ways[GRAIN] < ENDLESS else math.inf


def every_mix(simplex: Simplex) -> Iterator[Mix]:
    """All mixes of whole parts within the bounds, of which there must be finitely many to try."""
    ends = simplex.ends or []

    def counts(at: int, left: int) -> Iterator[tuple[int, ...]]:
        low, high = ends[at]
        if at == len(ends) - 1:
            if low <= left <= high:
                yield (left,)
            return
        for count in range(low, min(high, left) + 1):
            for rest in counts(at + 1, left - count):
                yield count, *rest

    for parts in counts(0, GRAIN):
        yield {name: part / GRAIN for name, part in zip(simplex.names, parts, strict=True)}


def trials_needed(num_sources: int) -> int:
    """How many trials show how a score follows the shares of so many sources: as many as a
    quadratic response in them has coefficients (Scheffe, 1958), and two more that tell it from
    noise.
    """
    return num_sources * (num_sources + 1) // 2 + 2
