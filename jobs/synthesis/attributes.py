"""What each new row is asked to be like: one value of each attribute, drawn so that all
combinations come before any comes again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from jobs.synthesis.seed_rows import cycled

MOST_COMBINATIONS = 100_000
"""Beyond so many each attribute is drawn by itself."""


def sampled(attributes: Mapping[str, Sequence[str]], seed: int) -> Iterator[dict[str, str]]:
    """Values without end, the same for the same seed."""
    names = sorted(attributes)
    if not names:
        yield from itertools.repeat({})
    sizes = [len(attributes[name]) for name in names]
    count = 1
    for size in sizes:
        count *= size
    if count > MOST_COMBINATIONS:
        yield from one_by_one(attributes, seed)
    for index in cycled(count, f"attributes/{seed}"):
        chosen = {}
        for name, size in zip(names, sizes, strict=True):
            index, offset = divmod(index, size)
            chosen[name] = attributes[name][offset]
        yield chosen


def one_by_one(attributes: Mapping[str, Sequence[str]], seed: int) -> Iterator[dict[str, str]]:
    """Each attribute apart, each of its values equally often."""
    draws = {
        name: cycled(len(values), f"attribute/{name}/{seed}")
        for name, values in sorted(attributes.items())
    }
    while True:
        yield {name: attributes[name][next(draw)] for name, draw in draws.items()}


def generator(name: str, seed: int, index: int) -> random.Random:
    """Chance for one draft, whatever was drawn for others."""
    return random.Random(f"{name}/{seed}/{index}")
