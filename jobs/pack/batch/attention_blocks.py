"""Which rows attention computes together.

Rows of different lengths are padded to one rectangle. A wide rectangle wastes scores, many
rectangles cost calls: `split_by_width` finds the cheapest cut.
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
    """Rows that share one prefix."""

    rows: list[range]
    """Their positions in the flat row, the shortest row first."""
    prefix: range
    """Positions of the prefix in the flat row."""
    spare: int
    """A token of the same slot, which stands for rows that only fill a rectangle."""

    def slice_rows(self, start: int, stop: int) -> PrefixBlock:
        """Some of the rows."""
        return PrefixBlock(self.rows[start:stop], self.prefix, self.spare)


def halved(blocks: list[PrefixBlock]) -> list[list[PrefixBlock]]:
    """The shorter half of each block's rows, and the longer one, which may be empty."""
    middles = [(len(block.rows) + 1) // 2 for block in blocks]
    return [
        [block.slice_rows(0, middle) for block, middle in zip(blocks, middles, strict=True)],
        [
            block.slice_rows(middle, len(block.rows))
            for block, middle in zip(blocks, middles, strict=True)
        ],
    ]


def split_by_width(blocks: list[PrefixBlock], per_rectangle: int) -> list[list[PrefixBlock]]:
    """Cut the rows of all blocks at the same indices so that the total cost is least.

    All blocks have equally many rows, the shortest first. This is the dynamic program of optimal
    one-dimensional clustering: best[j] = min over i < j of best[i] + cost of one rectangle with the
    rows from i to j. It takes O(widths squared), and there are few different widths.
    """
    widths = np.array([[len(row) for row in block.rows] for block in blocks]).max(0)
    prefix_length = len(blocks[0].prefix)
    # Between rows of one width no cut pays: only ends of runs of equal width are candidates.
    candidates = np.append(0, np.append(np.flatnonzero(np.diff(widths)) + 1, len(widths)))
    best = np.zeros(len(candidates))
    previous = np.zeros(len(candidates), dtype=np.int64)
    for end in range(1, len(candidates)):
        width = int(widths[candidates[end] - 1])
        costs = (
            best[:end]
            + (candidates[end] - candidates[:end]) * (len(blocks) * width * (prefix_length + width))
            + per_rectangle
        )
        previous[end] = costs.argmin()
        best[end] = costs[previous[end]]
    chosen = [len(candidates) - 1]
    while chosen[0]:
        chosen.insert(0, int(previous[chosen[0]]))
    ends = candidates[chosen].tolist()
    return [
        [block.slice_rows(start, stop) for block in blocks]
        for start, stop in itertools.pairwise(ends)
    ]


def rectangle(
    blocks: list[PrefixBlock], least_rows: int = 0, least_tokens: int = 0
) -> AttentionBlock:
    """Pad blocks of equal prefix length to one rectangle (B, N, L).

    N is at least `least_rows`, L at least `least_tokens`.
    """
    num_rows = max(least_rows, max(len(block.rows) for block in blocks))
    num_tokens = max(
        least_tokens, max(len(row) for block in blocks for row in block.rows or [range(1)])
    )
    starts = whole_numbers(
        [
            [row.start for row in block.rows] + [block.spare] * (num_rows - len(block.rows))
            for block in blocks
        ]
    )
    lengths = whole_numbers(
        [[len(row) for row in block.rows] + [0] * (num_rows - len(block.rows)) for block in blocks]
    )
    positions = starts[..., None] + torch.minimum(
        torch.arange(num_tokens), (lengths - 1).clamp(min=0)[..., None]
    )
    prefix = torch.tensor([block.prefix.start for block in blocks])[:, None] + torch.arange(
        len(blocks[0].prefix)
    )
    return AttentionBlock(positions, lengths, prefix if prefix.numel() else None)


def whole_numbers(values: Sequence[object]) -> torch.Tensor:
    """An int64 tensor of nested lists. numpy reads long lists several times as fast as torch."""
    return torch.from_numpy(np.array(values, dtype=np.int64))
