"""Attention's rows are cut into rectangles where that costs least, and each row stands in one."""

from __future__ import annotations

import itertools
import random

import pytest

from jobs.pack.batch.attention_blocks import PrefixBlock, halved, split_by_width


def blocks(rng: random.Random, number: int, rows: int, prefix: int) -> list[PrefixBlock]:
    """Blocks of as many rows, each of its own lengths."""
    made = []
    for start in range(0, number * 1000, 1000):
        lengths = sorted(rng.choice([1, 2, 5, 17, 18, 40]) for _ in range(rows))
        stops = list(itertools.accumulate(lengths, initial=start + prefix))
        made.append(
            PrefixBlock(
                [range(*pair) for pair in itertools.pairwise(stops)],
                range(start, start + prefix),
                start,
            )
        )
    return made


def cost(cut: list[list[PrefixBlock]], per_rectangle: int) -> int:
    """Scores of all rectangles, and what each costs by itself."""
    total = 0
    for part in cut:
        width = max(len(row) for block in part for row in block.rows)
        total += (
            sum(len(block.rows) for block in part) * width * (width + len(part[0].prefix))
            + per_rectangle
        )
    return total


@pytest.mark.parametrize("per_rectangle", [0, 300, 10**6])
@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_costs_less(seed: int, per_rectangle: int) -> None:
    rng = random.Random(seed)
    given = blocks(rng, rng.randint(1, 4), rng.randint(1, 7), rng.choice([0, 9, 45]))
    cut = split_by_width(given, per_rectangle)
    rows = len(given[0].rows)
    ways = [
        [0, *inner, rows]
        for count in range(rows)
        for inner in itertools.combinations(range(1, rows), count)
    ]
    others = [
        [[block.slice_rows(*pair) for block in given] for pair in itertools.pairwise(ends)]
        for ends in ways
    ]
    assert cost(cut, per_rectangle) == min(cost(other, per_rectangle) for other in others)
    for number, block in enumerate(given):
        assert [row for part in cut for row in part[number].rows] == block.rows
        assert all(
            part[number].prefix == block.prefix and part[number].spare == block.spare
            for part in cut
        )


def test_halves_leave_no_row_out_whatever_their_number() -> None:
    rng = random.Random(1)
    given = [*blocks(rng, 1, 1, 4), *blocks(rng, 1, 2, 4), *blocks(rng, 1, 7, 4)]
    shorter, longer = halved(given)
    assert [len(block.rows) for block in shorter] == [1, 1, 4]
    assert [[*a.rows, *b.rows] for a, b in zip(shorter, longer, strict=True)] == [
        block.rows for block in given
    ]
