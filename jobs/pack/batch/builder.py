"""Lays the portions of one pass into a flat row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from jobs.pack.batch.attention_blocks import (
    PER_RECTANGLE,
    PrefixBlock,
    halved,
    rectangle,
    split_by_width,
    whole_numbers,
)
from jobs.pack.batch.packed_batch import AttentionBlock, BatchShape, Group, PackedBatch
from jobs.pack.batch.prefix_groups import PrefixGroup

LEAST_EVEN = 128
"""Tokens of a slot from which they are filled up to one of few numbers; a hundredth or two more."""


class Builder:
    """Collects the flat row of one pass."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.places: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.owners: list[int] = []
        self.answers: list[int] = []
        self.members: list[int] = []
        self.examples: list[tuple[int, int]] = []
        self.beginnings: list[PrefixBlock] = []
        self.blocks: list[PrefixBlock] = []

    def put(self, ids: list[int], position: int) -> range:
        """Append tokens; returns their places."""
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.members += [len(self.examples)] * len(ids)
        return range(start, len(self.ids))

    def pad(self, count: int) -> None:
        """Append tokens that only fill up. All stand at place 0: some models look at the largest,
        some know no place beyond their own.
        """
        self.ids += self.ids[-1:] * count
        self.positions += [0] * count
        self.members += self.members[-1:] * count

    def add(self, part: PrefixGroup, segment: int) -> None:
        """Append one portion: its common beginning, then every example's own tokens."""
        shared = self.put(part.examples[0].ids[: part.prefix], 0)
        rows = []
        for row, example in zip(part.rows, part.examples, strict=True):
            own = self.put(example.ids[part.prefix : -1], part.prefix)
            rows.append(own)
            first = 1 if part.everything else example.prompt_length
            count = len(example.ids) - first
            self.places += range(
                own.start + first - 1 - part.prefix, own.start + first - 1 - part.prefix + count
            )
            self.targets += example.ids[first:]
            self.weights += [part.weight] * count
            self.owners += [segment] * count
            self.answers += [len(self.examples)] * count
            self.examples.append((part.slot, row))
        if shared:
            self.beginnings.append(PrefixBlock([shared], range(0), shared.stop - 1))
        self.blocks.append(PrefixBlock(sorted(rows, key=len), shared, rows[-1].stop - 1))

    def rectangles(self, room: BatchShape | None, per_rectangle: int) -> list[AttentionBlock]:
        """As few and as narrow as pays; with a room those that it has, whatever rows there are."""
        first, found = (
            [self.beginnings] if self.beginnings else [],
            by_kind(self.blocks, room is None),
        )
        if room is None:
            return [
                rectangle(blocks)
                for blocks in first
                + [part for blocks in found for part in split_by_width(blocks, per_rectangle)]
            ]
        every = first + [half for blocks in found for half in halved(blocks)]
        return [
            rectangle(blocks, *size[1:3])
            for blocks, size in zip(every, room.rectangles, strict=True)
        ]

    def fill_up(self, supervised: int) -> int:
        """Repeat the last supervised token, without weight, until there are so many; returns how
        often.
        """
        more = max(supervised - len(self.weights), 0)
        for values in (self.places, self.targets, self.owners, self.answers):
            values += values[-1:] * more
        self.weights += [0.0] * more
        return more


MOST_PADDING = {"cpu": 1 / 32, "cuda": 1 / 8}
"""Slots are filled up to equally many tokens where that adds no more than this share: batched
products want equal parts.
"""


@dataclass(frozen=True)
class Share:
    """One slot's part of a pass."""

    slot: int
    parts: tuple[PrefixGroup, ...]
    num_tokens: int


def shares_of(parts: list[PrefixGroup]) -> list[Share]:
    """Each slot's part; portions of one slot must follow each other."""
    sorted_out = [
        (slot, tuple(own)) for slot, own in itertools.groupby(parts, key=lambda part: part.slot)
    ]
    return [Share(slot, own, sum(part.num_tokens for part in own)) for slot, own in sorted_out]


def even(num_tokens: int, device: str) -> int:
    """How many tokens a slot gets, at least so many: on a CPU one of few numbers, because kernels
    are compiled for each that is new.
    """
    if device != "cpu" or num_tokens < LEAST_EVEN:
        return num_tokens
    step = max(8, 1 << (num_tokens >> 6).bit_length() - 1)
    return -(-num_tokens // step) * step


def alike(
    shares: list[Share], family: Callable[[int], int], padding: float
) -> Iterator[list[Share]]:
    """Neighbours whose slots are of one family, as long as they can be filled up to equally many
    tokens with no more than this share.
    """
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


def room_for(parts: list[PrefixGroup], family: Callable[[int], int]) -> BatchShape:
    """What an even layout of these portions needs."""
    groups = list(alike(shares_of(parts), family, math.inf))
    supervised = [
        [sum(part.num_supervised for part in share.parts) for share in group] for group in groups
    ]
    sizes: dict[tuple[int, int], list[int]] = {}
    for part in parts:
        if part.prefix:
            enlarge(sizes.setdefault((-1, 0), [0, 1, 1]), [range(part.prefix)])
        rows = sorted(
            (range(len(example.ids) - 1 - part.prefix) for example in part.examples), key=len
        )
        for number, (half,) in enumerate(halved([PrefixBlock(rows, range(part.prefix), 0)])):
            enlarge(sizes.setdefault((part.prefix, number), [0, 1, 1]), half.rows)
    return BatchShape(
        slots=tuple(map(len, groups)),
        lengths=tuple(max(share.num_tokens for share in group) for group in groups),
        tails=tuple(map(max, supervised)),
        rectangles=tuple((*sizes[kind], max(kind[0], 0)) for kind in sorted(sizes)),  # type: ignore[misc]
        supervised=sum(map(sum, supervised)),
    )


def enlarge(size: list[int], rows: list[range]) -> None:
    """One more block for a rectangle."""
    size[:] = (
        size[0] + 1,
        max(size[1], len(rows)),
        max(size[2], *map(len, rows)) if rows else size[2],
    )


def by_kind(blocks: list[PrefixBlock], by_rows: bool) -> list[list[PrefixBlock]]:
    """Blocks whose common beginnings are equally long, the shortest first; `by_rows`: and that have
    equally many rows.
    """
    found: dict[tuple[int, int], list[PrefixBlock]] = {}
    for block in blocks:
        found.setdefault((len(block.shared), len(block.rows) if by_rows else 0), []).append(block)
    return [found[kind] for kind in sorted(found)]


def pack_batch(
    parts: list[PrefixGroup],
    family: Callable[[int], int] = lambda slot: 0,
    room: BatchShape | None = None,
    device: str = "cpu",
) -> PackedBatch:
    """The flat row of one pass; portions of one slot must follow each other. Slots of one `family`
    may be grouped: see alike.

    `room`, at least room_for(parts, family), makes few products of it, whose sizes depend on the
    room alone.
    """
    builder, groups, num_shares = Builder(), [], 0
    shares = shares_of(parts)
    for number, together in enumerate(
        alike(shares, family, MOST_PADDING[device] if room is None else math.inf)
    ):
        length = (
            even(max(share.num_tokens for share in together), device)
            if room is None
            else room.lengths[number]
        )
        groups.append(Group(tuple(share.slot for share in together), len(builder.ids), length))
        for share in together:
            for part in share.parts:
                builder.add(part, num_shares)
            builder.pad(length - share.num_tokens)
            num_shares += 1
    num_filled = builder.fill_up(0 if room is None else room.supervised)
    return PackedBatch(
        ids=whole_numbers([builder.ids]),
        positions=whole_numbers([builder.positions]),
        groups=groups,
        rectangles=builder.rectangles(room, PER_RECTANGLE[device]),
        places=whole_numbers(builder.places),
        targets=whole_numbers(builder.targets),
        weights=torch.tensor(builder.weights, dtype=torch.float32),
        owners=whole_numbers(builder.owners),
        answers=whole_numbers(builder.answers),
        members=whole_numbers(builder.members),
        examples=builder.examples,
        num_padded=len(builder.ids) - sum(share.num_tokens for share in shares),
        num_filled=num_filled,
        room=room,
    )
