"""Builds the packed batch of one pass from prefix groups.

`pack_batch` takes the neighbouring slots whose ranks share a stack and whose token counts are
close, pads them to equally many tokens, and lays one after the other into the flat row.
"""

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
        self.loss_positions: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.owners: list[int] = []
        self.answers: list[int] = []
        self.members: list[int] = []
        self.examples: list[tuple[int, int]] = []
        self.beginnings: list[PrefixBlock] = []
        self.blocks: list[PrefixBlock] = []

    def put(self, ids: list[int], position: int) -> range:
        """Append tokens of the current example; returns their positions in the row."""
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.members += [len(self.examples)] * len(ids)
        return range(start, len(self.ids))

    def pad(self, count: int) -> None:
        """Append `count` padding tokens.

        All have position 0: some models look at the largest position, some have no embedding beyond
        their own length.
        """
        self.ids += self.ids[-1:] * count
        self.positions += [0] * count
        self.members += self.members[-1:] * count

    def add(self, prefix_group: PrefixGroup, segment: int) -> None:
        """Append a prefix group: its prefix, then every example's own tokens.

        `segment` is the index of its slot in the packed batch.
        """
        shared = self.put(prefix_group.examples[0].ids[: prefix_group.prefix], 0)
        rows = []
        for row, example in zip(prefix_group.rows, prefix_group.examples, strict=True):
            suffix = self.put(example.ids[prefix_group.prefix : -1], prefix_group.prefix)
            rows.append(suffix)
            for start, stop in example.targets(prefix_group.everything):
                # A token is predicted from the one before it.
                before = suffix.start - 1 - prefix_group.prefix
                self.loss_positions += range(before + start, before + stop)
                self.targets += example.ids[start:stop]
            count = example.num_targets(prefix_group.everything)
            self.weights += [prefix_group.weight] * count
            self.owners += [segment] * count
            self.answers += [len(self.examples)] * count
            self.examples.append((prefix_group.slot, row))
        if shared:
            self.beginnings.append(PrefixBlock([shared], range(0), shared.stop - 1))
        self.blocks.append(PrefixBlock(sorted(rows, key=len), shared, rows[-1].stop - 1))

    def rectangles(self, room: BatchShape | None, per_rectangle: int) -> list[AttentionBlock]:
        """The attention blocks of the row: as few and as narrow as pays.

        With a `room` they are those of the room, whatever rows there are.
        """
        prefix_only = [self.beginnings] if self.beginnings else []
        by_prefix = by_kind(self.blocks, room is None)
        if room is None:
            return [
                rectangle(blocks)
                for blocks in prefix_only
                + [rows for blocks in by_prefix for rows in split_by_width(blocks, per_rectangle)]
            ]
        halves = prefix_only + [half for blocks in by_prefix for half in halved(blocks)]
        return [
            rectangle(blocks, *size[1:3])
            for blocks, size in zip(halves, room.rectangles, strict=True)
        ]

    def fill_up(self, supervised: int) -> int:
        """Repeat the last supervised token with weight 0 until there are `supervised` of them;
        returns the number of repetitions.
        """
        more = max(supervised - len(self.weights), 0)
        for values in (self.loss_positions, self.targets, self.owners, self.answers):
            values += values[-1:] * more
        self.weights += [0.0] * more
        return more


MOST_PADDING = {"cpu": 1 / 32, "cuda": 1 / 8}
"""The largest share of padding that slots of one group may add: a batched product needs equally
many tokens of each slot.
"""


@dataclass(frozen=True)
class Share:
    """The prefix groups of one slot in a pass."""

    slot: int
    prefix_groups: tuple[PrefixGroup, ...]
    num_tokens: int


def shares_of(prefix_groups: list[PrefixGroup]) -> list[Share]:
    """The prefix groups by slot. Those of one slot must be neighbours."""
    by_slot = [
        (slot, tuple(slot_groups))
        for slot, slot_groups in itertools.groupby(
            prefix_groups, key=lambda prefix_group: prefix_group.slot
        )
    ]
    return [
        Share(slot, slot_groups, sum(prefix_group.num_tokens for prefix_group in slot_groups))
        for slot, slot_groups in by_slot
    ]


def even(num_tokens: int, device: str) -> int:
    """`num_tokens` rounded up. On a CPU only few sizes occur, because kernels are compiled for each
    new one.
    """
    if device != "cpu" or num_tokens < LEAST_EVEN:
        return num_tokens
    step = max(8, 1 << (num_tokens >> 6).bit_length() - 1)
    return -(-num_tokens // step) * step


def alike(
    shares: list[Share], family: Callable[[int], int], padding: float
) -> Iterator[list[Share]]:
    """Neighbouring slots that form a group: they are of one family, and padding them to equally
    many tokens adds at most the share `padding`.
    """
    together: list[Share] = []
    for share in shares:
        candidate = [*together, share]
        most = len(candidate) * max(member.num_tokens for member in candidate)
        fits = most <= (1 + padding) * sum(member.num_tokens for member in candidate)
        if together and not (fits and family(together[0].slot) == family(share.slot)):
            yield together
            together = []
        together.append(share)
    if together:
        yield together


def room_for(prefix_groups: list[PrefixGroup], family: Callable[[int], int]) -> BatchShape:
    """The shape of a packed batch of these prefix groups with few, equally wide groups."""
    groups = list(alike(shares_of(prefix_groups), family, math.inf))
    supervised = [
        [
            sum(prefix_group.num_supervised for prefix_group in share.prefix_groups)
            for share in group
        ]
        for group in groups
    ]
    sizes: dict[tuple[int, int], list[int]] = {}
    for prefix_group in prefix_groups:
        if prefix_group.prefix:
            enlarge(sizes.setdefault((-1, 0), [0, 1, 1]), [range(prefix_group.prefix)])
        rows = sorted(
            (
                range(len(example.ids) - 1 - prefix_group.prefix)
                for example in prefix_group.examples
            ),
            key=len,
        )
        for which_half, (half,) in enumerate(
            halved([PrefixBlock(rows, range(prefix_group.prefix), 0)])
        ):
            enlarge(sizes.setdefault((prefix_group.prefix, which_half), [0, 1, 1]), half.rows)
    return BatchShape(
        slots=tuple(map(len, groups)),
        lengths=tuple(max(share.num_tokens for share in group) for group in groups),
        tails=tuple(map(max, supervised)),
        rectangles=tuple((*sizes[kind], max(kind[0], 0)) for kind in sorted(sizes)),  # type: ignore[misc]
        supervised=sum(map(sum, supervised)),
    )


def enlarge(size: list[int], rows: list[range]) -> None:
    """Enlarge a rectangle's [blocks, rows, tokens] in place for one more block."""
    size[:] = (
        size[0] + 1,
        max(size[1], len(rows)),
        max(size[2], *map(len, rows)) if rows else size[2],
    )


def by_kind(blocks: list[PrefixBlock], by_rows: bool) -> list[list[PrefixBlock]]:
    """Blocks of equal prefix length, the shortest prefix first; with `by_rows` also of equally many
    rows.
    """
    blocks_by_kind: dict[tuple[int, int], list[PrefixBlock]] = {}
    for block in blocks:
        blocks_by_kind.setdefault(
            (len(block.prefix), len(block.rows) if by_rows else 0), []
        ).append(block)
    return [blocks_by_kind[kind] for kind in sorted(blocks_by_kind)]


def pack_batch(
    prefix_groups: list[PrefixGroup],
    family: Callable[[int], int] = lambda slot: 0,
    room: BatchShape | None = None,
    device: str = "cpu",
) -> PackedBatch:
    """The packed batch of one pass, on the CPU.

    Prefix groups of one slot must be neighbours. Slots of one `family` may be grouped: see `alike`.
    With a `room`, at least `room_for(prefix_groups, family)`, the batch has the sizes of the room
    alone, so that captured kernels can run on it.
    """
    builder = Builder()
    groups: list[Group] = []
    num_shares = 0
    shares = shares_of(prefix_groups)
    for group_index, group_shares in enumerate(
        alike(shares, family, MOST_PADDING[device] if room is None else math.inf)
    ):
        length = (
            even(max(share.num_tokens for share in group_shares), device)
            if room is None
            else room.lengths[group_index]
        )
        groups.append(Group(tuple(share.slot for share in group_shares), len(builder.ids), length))
        for share in group_shares:
            for prefix_group in share.prefix_groups:
                builder.add(prefix_group, num_shares)
            builder.pad(length - share.num_tokens)
            num_shares += 1
    num_filled = builder.fill_up(0 if room is None else room.supervised)
    return PackedBatch(
        ids=whole_numbers([builder.ids]),
        positions=whole_numbers([builder.positions]),
        groups=groups,
        rectangles=builder.rectangles(room, PER_RECTANGLE[device]),
        loss_positions=whole_numbers(builder.loss_positions),
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
