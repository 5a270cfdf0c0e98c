"""How many examples each source gives, and when it is used up. Pure, and without numpy: the plan
asks here too.

A source that may give no more leaves the mix: the weights of the others then share out what
follows, in the same proportion to one another. So the examples come in *phases*, one for each set
of sources that is left. A phase is cut into *blocks*: in each of them every source gives a fixed
number of examples, its quota.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf

from jobs.config import Data, Source


@dataclass(frozen=True)
class Phase:
    """A stretch of the examples in which the same sources are drawn from."""

    start: int
    """Examples before it."""
    first_block: int
    """Blocks before it."""
    num_blocks: float
    """A whole number, or infinite."""
    block_size: int
    quotas: tuple[int, ...]
    """Examples of each source in a block."""
    walked: tuple[int, ...]
    """Examples that each source has given before it."""

    @property
    def size(self) -> float:
        """Examples in it."""
        return self.num_blocks * self.block_size


@dataclass(frozen=True)
class Shares:
    """What the data settings ask of sources of so many rows."""

    weights: dict[str, float]
    block_size: int | None = None
    """Examples in one walk through all sources; None: as many as they have rows."""
    limits: dict[str, int] | None = None
    """Examples that each source may give; None: any number."""
    stops: bool = False
    """Whether the first source that is used up ends all."""


def by_epochs(sources: Mapping[str, Source]) -> bool:
    """Whether the sources are mixed by epochs and not by weight."""
    return any(source.epochs is not None for source in sources.values())


def weights_of(sources: Mapping[str, Source], sizes: Mapping[str, int]) -> dict[str, float]:
    """The weight of each source of so many rows; of one that nobody has set anything of, 1."""
    if not by_epochs(sources):
        return {name: sources.get(name, Source()).weight for name in sizes}
    return {name: epochs_of(sources, name) * size for name, size in sizes.items()}


def epochs_of(sources: Mapping[str, Source], name: str) -> float:
    """How often the rows of a source are drawn in one walk through all, where that is set."""
    epochs = sources.get(name, Source()).epochs
    return 1.0 if epochs is None else epochs


def shares_of(data: Data, sizes: Mapping[str, int]) -> Shares:
    """Weights and limits of sources of so many rows."""
    weights = weights_of(data.sources, sizes)
    walks = dict.fromkeys(sizes, 1.0)
    block_size = None
    if by_epochs(data.sources):
        walks = {name: epochs_of(data.sources, name) for name in sizes}
        block_size = max(1, sum(round(walks[name] * size) for name, size in sizes.items()))
    if data.exhausted == "cycle":
        if data.max_epochs is None:
            return Shares(weights, block_size)
        walks = {name: float(data.max_epochs) for name in sizes}
    limits = {name: round(walks[name] * size) for name, size in sizes.items()}
    return Shares(weights, block_size, limits, data.exhausted == "stop")


def most_examples(shares: Shares, sizes: Mapping[str, int]) -> float:
    """How many examples there are before the sources are used up; infinite without limits."""
    if shares.limits is None:
        return inf
    return sum(phase.size for phase in phases_of(shares, sizes))


def examples_of(shares: Shares, sizes: Mapping[str, int], count: int) -> dict[str, float]:
    """About how many of the first `count` examples are from each source."""
    names = drawn_from(shares, sizes)
    given = dict.fromkeys(sizes, 0.0)
    for phase in phases_of(shares, sizes):
        within = min(count - phase.start, phase.size)
        if within <= 0:
            break
        for name, quota in zip(names, phase.quotas, strict=True):
            given[name] += within * quota / phase.block_size
    return given


def drawn_from(shares: Shares, sizes: Mapping[str, int]) -> list[str]:
    """The sources that any example is from, in alphabetical order."""
    return [name for name in sorted(sizes) if shares.weights[name] > 0]


def phases_of(shares: Shares, sizes: Mapping[str, int]) -> list[Phase]:
    """The phases of sources of so many rows; none where all weights are 0."""
    names = drawn_from(shares, sizes)
    if not names:
        return []
    block_size = shares.block_size or sum(sizes[name] for name in names)
    limits = None if shares.limits is None else [shares.limits[name] for name in names]
    return phases(block_size, [shares.weights[name] for name in names], limits, shares.stops)


def phases(
    block_size: int, weights: list[float], limits: list[int] | None, stops: bool = False
) -> list[Phase]:
    """The phases of sources with these positive weights, of which each gives at most so many
    examples. `stops`: all ends with the first one that is used up.
    """
    if limits is None:
        quotas = tuple(apportion(block_size, weights))
        return [Phase(0, 0, inf, block_size, quotas, (0,) * len(weights))]
    left = list(limits)
    sequence: list[Phase] = []

    def add(num_blocks: int, quotas: list[int]) -> None:
        before = sequence[-1] if sequence else None
        start = 0 if before is None else int(before.start + before.size)
        first = 0 if before is None else int(before.first_block + before.num_blocks)
        walked = tuple(limit - rest for limit, rest in zip(limits, left, strict=True))
        sequence.append(Phase(start, first, num_blocks, sum(quotas), tuple(quotas), walked))
        for source, quota in enumerate(quotas):
            left[source] -= num_blocks * quota

    while any(left) and not (stops and not all(left)):
        present = [source for source, rest in enumerate(left) if rest]
        share = spread(block_size, [w if left[at] else 0.0 for at, w in enumerate(weights)])
        num_blocks = min(left[at] // share[at] for at in present if share[at])
        if num_blocks:
            add(num_blocks, share)
        if all(left[at] for at in present):
            add(1, last_block(left, weights, present))
    return sequence


def spread(total: int, weights: list[float]) -> list[int]:
    """`apportion`, with nothing for what has no weight."""
    present = [at for at, weight in enumerate(weights) if weight > 0]
    counts = dict(zip(present, apportion(total, [weights[at] for at in present]), strict=True))
    return [counts.get(at, 0) for at in range(len(weights))]


def last_block(left: list[int], weights: list[float], present: list[int]) -> list[int]:
    """The quotas of a block that ends where the first of the sources is used up."""
    largest = max(weights[at] for at in present)
    ratio = {at: max(weights[at] / largest, 1e-300) for at in present}
    first = min(present, key=lambda at: left[at] / ratio[at])
    total = floor(sum(ratio.values()) * left[first] / ratio[first] + 1e-9)
    active = [weight if at in ratio else 0.0 for at, weight in enumerate(weights)]
    quotas = [min(quota, left[at]) for at, quota in enumerate(spread(total, active))]
    quotas[first] = left[first]
    return quotas


def apportion(total: int, weights: list[float]) -> list[int]:
    """Whole numbers that add up to `total` in proportion to `weights`, by largest remainder; the
    first wins a tie.
    """
    largest = max(weights)
    scaled = [
        weight / largest for weight in weights
    ]  # the sum of the weights may overflow or vanish, that of the ratios cannot
    exact = [total * weight / sum(scaled) for weight in scaled]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
