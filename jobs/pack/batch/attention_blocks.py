"""Which rows attention takes together: a rectangle is as wide as its longest row, and each costs a
few dozen calls of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jobs.pack.batch.packed_batch import AttentionBlock

PER_RECTANGLE = {"cpu": 1 << 13, "cuda": 1 << 19}
"""What a rectangle costs by itself, in scores (one query, one key, one head) that would take as
long; measured with 9 heads of 64.
"""


@dataclass(frozen=True)
class PrefixBlock:
    """Rows with one common beginning."""

    rows: list[range]
    """Their places in the flat row, the shortest first."""
    shared: range
    spare: int
    """A token of the same slot, which stands for rows that there are not."""

    def part(self, start: int, stop: int) -> PrefixBlock:
        """Some of the rows."""
        return PrefixBlock(self.rows[start:stop], self.shared, self.spare)


def halved(blocks: list[PrefixBlock]) -> list[list[PrefixBlock]]:
    """The shorter half of each block's rows, and the longer one, which may be empty."""
    middles = [(len(block.rows) + 1) // 2 for block in blocks]
    return [
        [block.part(0, middle) for block, middle in zip(blocks, middles, strict=True)],
        [
            block.part(middle, len(block.rows))
            for block, middle in zip(blocks, middles, strict=True)
        ],
    ]


def split_by_width(blocks: list[PrefixBlock], per_rectangle: int) -> list[list[PrefixBlock]]:
    """The same stretches of all blocks' rows, cut where that costs least in all; blocks of equally
    many rows.
    """
    widths = np.array([[len(row) for row in block.rows] for block in blocks]).max(0)
    prefix, stops = (
        len(blocks[0].shared),
        np.append(0, np.append(np.flatnonzero(np.diff(widths)) + 1, len(widths))),
    )
    best, cuts = np.zeros(len(stops)), np.zeros(len(stops), dtype=np.int64)
    for number in range(1, len(stops)):  # between rows of one width no cut pays
        width = int(widths[stops[number] - 1])
        costs = (
            best[:number]
            + (stops[number] - stops[:number]) * (len(blocks) * width * (prefix + width))
            + per_rectangle
        )
        cuts[number] = costs.argmin()
        best[number] = costs[cuts[number]]
    chosen = [len(stops) - 1]
    while chosen[0]:
        chosen.insert(0, int(cuts[chosen[0]]))
    ends = stops[chosen].tolist()
    return [
        [block.part(start, stop) for block in blocks] for start, stop in itertools.pairwise(ends)
    ]


def rectangle(blocks: list[PrefixBlock], num_rows: int = 0, num_tokens: int = 0) -> AttentionBlock:
    """Blocks of equal prefix length as one rectangle, of at least so many rows in each and tokens
    in a row.
    """
    most = max(num_rows, max(len(block.rows) for block in blocks))
    longest = max(num_tokens, max(len(row) for block in blocks for row in block.rows or [range(1)]))
    starts = whole_numbers(
        [
            [row.start for row in block.rows] + [block.spare] * (most - len(block.rows))
            for block in blocks
        ]
    )
    lengths = whole_numbers(
        [[len(row) for row in block.rows] + [0] * (most - len(block.rows)) for block in blocks]
    )
    places = starts[..., None] + torch.minimum(
        torch.arange(longest), (lengths - 1).clamp(min=0)[..., None]
    )
    prefix = torch.tensor([block.shared.start for block in blocks])[:, None] + torch.arange(
        len(blocks[0].shared)
    )
    return AttentionBlock(places, lengths, prefix if prefix.numel() else None)


def whole_numbers(values: Sequence[object]) -> torch.Tensor:
    """int64, by way of numpy, which reads long lists several times as fast."""
    return torch.from_numpy(np.array(values, dtype=np.int64))
