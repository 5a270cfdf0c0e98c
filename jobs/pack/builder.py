"""Lays the portions of one pass into a flat row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jobs.pack.layout import Group, Layout, Rectangle, Room
from jobs.pack.portions import Portion


@dataclass(frozen=True)
class Block:
    """Rows with one common beginning."""

    rows: list[range]
    shared: range
    spare: int
    """A token of the same slot, which stands for rows that there are not."""


class Builder:
    """Collects the flat row of one pass. `even`: which rectangles there are does not depend on how many rows a slot has."""

    def __init__(self, even: bool) -> None:
        self.even = even
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.places: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.owners: list[int] = []
        self.answers: list[int] = []
        self.examples: list[tuple[int, int]] = []
        self.blocks: dict[tuple[int, int, int], list[Block]] = {}

    def put(self, ids: list[int], position: int) -> range:
        """Append tokens; returns their places."""
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        return range(start, len(self.ids))

    def add(self, part: Portion, segment: int) -> None:
        """Append one portion: its common beginning, then every example's own tokens."""
        shared = self.put(part.examples[0].ids[: part.prefix], 0)
        rows = []
        for row, example in zip(part.rows, part.examples, strict=True):
            own = self.put(example.ids[part.prefix : -1], part.prefix)
            rows.append(own)
            first = 1 if part.everything else example.prompt_length
            count = len(example.ids) - first
            self.places += range(own.start + first - 1 - part.prefix, own.start + first - 1 - part.prefix + count)
            self.targets += example.ids[first:]
            self.weights += [part.weight] * count
            self.owners += [segment] * count
            self.answers += [len(self.examples)] * count
            self.examples.append((part.slot, row))
        if shared:
            self.blocks.setdefault((-1, 0, 0), []).append(Block([shared], range(0), shared.stop - 1))
        for number, half in enumerate(halves(rows, self.even)):
            kind = part.prefix, 0 if self.even else len(half), number
            self.blocks.setdefault(kind, []).append(Block(half, shared, rows[-1].stop - 1))

    def fill_up(self, supervised: int) -> int:
        """Repeat the last supervised token, without weight, until there are so many; returns how often."""
        more = max(supervised - len(self.weights), 0)
        for values in (self.places, self.targets, self.owners, self.answers):
            values += values[-1:] * more
        self.weights += [0.0] * more
        return more


HALVED_FROM = 8
"""So many rows or more are laid into two rectangles, the shorter and the longer half: a rectangle is as wide as its longest row."""


def halves(rows: list[range], even: bool = False) -> list[list[range]]:
    """Rows as one block, or as two where lengths differ much; `even`: always as two, of which the second may be empty."""
    by_length = sorted(rows, key=len)
    middle = (len(rows) + even) // 2
    if not even and (len(rows) < HALVED_FROM or 3 * len(by_length[-1]) < 4 * len(by_length[middle - 1])):
        return [rows]
    return [by_length[:middle], by_length[middle:]]


MOST_PADDING = {"cpu": 1 / 32, "cuda": 1 / 8}
"""Slots are filled up to equally many tokens where that adds no more than this share: batched products want equal parts."""


@dataclass(frozen=True)
class Share:
    """One slot's part of a pass."""

    slot: int
    parts: tuple[Portion, ...]
    num_tokens: int


def shares_of(parts: list[Portion]) -> list[Share]:
    """Each slot's part; portions of one slot must follow each other."""
    sorted_out = [(slot, tuple(own)) for slot, own in itertools.groupby(parts, key=lambda part: part.slot)]
    return [Share(slot, own, sum(part.num_tokens for part in own)) for slot, own in sorted_out]


def alike(shares: list[Share], family: Callable[[int], int], padding: float) -> Iterator[list[Share]]:
    """Neighbours whose slots are of one family, as long as they can be filled up to equally many tokens with no more than this share."""
    together: list[Share] = []
    for share in shares:
        whole = [*together, share]
        most = len(whole) * max(each.num_tokens for each in whole)
        fits = most <= (1 + padding) * sum(each.num_tokens for each in whole)
        if together and not (fits and family(together[0].slot) == family(share.slot)):
            yield together
            together = []
        together.append(share)
    if together:
        yield together


def room_for(parts: list[Portion], family: Callable[[int], int]) -> Room:
    """What an even layout of these portions needs."""
    groups = list(alike(shares_of(parts), family, math.inf))
    supervised = [[sum(part.num_supervised for part in share.parts) for share in group] for group in groups]
    sizes: dict[tuple[int, int], list[int]] = {}
    for part in parts:
        if part.prefix:
            enlarge(sizes.setdefault((-1, 0), [0, 1, 1]), [range(part.prefix)])
        for number, half in enumerate(halves([range(len(example.ids) - 1 - part.prefix) for example in part.examples], True)):
            enlarge(sizes.setdefault((part.prefix, number), [0, 1, 1]), half)
    return Room(
        slots=tuple(map(len, groups)),
        lengths=tuple(max(share.num_tokens for share in group) for group in groups),
        tails=tuple(map(max, supervised)),
        rectangles=tuple((*sizes[kind], max(kind[0], 0)) for kind in sorted(sizes)),  # type: ignore[misc]
        supervised=sum(map(sum, supervised)),
    )


def enlarge(size: list[int], rows: list[range]) -> None:
    """One more block for a rectangle."""
    size[:] = size[0] + 1, max(size[1], len(rows)), max(size[2], *map(len, rows)) if rows else size[2]


def build(
    parts: list[Portion],
    family: Callable[[int], int] = lambda slot: 0,
    room: Room | None = None,
    padding: float = MOST_PADDING["cpu"],
) -> Layout:
    """The flat row of one pass; portions of one slot must follow each other. Slots of one `family` may be grouped: see alike.

    `room`, at least room_for(parts, family), makes few products of it, whose sizes depend on the room alone.
    """
    even = room is not None
    builder, groups, num_shares = Builder(even), [], 0
    shares = shares_of(parts)
    for number, together in enumerate(alike(shares, family, math.inf if even else padding)):
        length = max(share.num_tokens for share in together) if room is None else room.lengths[number]
        groups.append(Group(tuple(share.slot for share in together), len(builder.ids), length))
        for share in together:
            for part in share.parts:
                builder.add(part, num_shares)
            builder.put([builder.ids[-1]] * (length - share.num_tokens), 0)
            num_shares += 1
    num_filled = builder.fill_up(0 if room is None else room.supervised)
    blocks = [builder.blocks[key] for key in (sorted(builder.blocks) if even else builder.blocks)]
    sizes = [(0, 0)] * len(blocks) if room is None else [size[1:3] for size in room.rectangles]
    return Layout(
        ids=whole_numbers([builder.ids]),
        positions=whole_numbers([builder.positions]),
        groups=groups,
        rectangles=[rectangle(own, *size) for own, size in zip(blocks, sizes, strict=True)],
        places=whole_numbers(builder.places),
        targets=whole_numbers(builder.targets),
        weights=torch.tensor(builder.weights, dtype=torch.float32),
        owners=whole_numbers(builder.owners),
        answers=whole_numbers(builder.answers),
        examples=builder.examples,
        num_padded=len(builder.ids) - sum(share.num_tokens for share in shares),
        num_filled=num_filled,
        room=room,
    )


def whole_numbers(values: list[Any]) -> torch.Tensor:
    """int64, by way of numpy, which reads long lists several times as fast."""
    return torch.from_numpy(np.array(values, dtype=np.int64))


def rectangle(blocks: list[Block], num_rows: int, num_tokens: int) -> Rectangle:
    """Blocks of equal prefix length as one rectangle, of at least so many rows in each and tokens in a row."""
    most = max(num_rows, max(len(block.rows) for block in blocks))
    longest = max(num_tokens, max(len(row) for block in blocks for row in block.rows or [range(1)]))
    starts = whole_numbers([[row.start for row in block.rows] + [block.spare] * (most - len(block.rows)) for block in blocks])
    lengths = whole_numbers([[len(row) for row in block.rows] + [0] * (most - len(block.rows)) for block in blocks])
    places = starts[..., None] + torch.minimum(torch.arange(longest), (lengths - 1).clamp(min=0)[..., None])
    prefix = torch.tensor([block.shared.start for block in blocks])[:, None] + torch.arange(len(blocks[0].shared))
    return Rectangle(places, lengths, prefix if prefix.numel() else None)
