"""Where the tokens of a pack's step stand: one flat row, a common beginning once per slot, logits
only where there is loss.

Pure bookkeeping: which token of which slot stands where, what it may attend to, and what is
predicted from it. builder.py makes it; the arithmetic is in attention.py, lora.py and engine.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from jobs.model.seeded_dropout import DropoutSpec


@dataclass
class AttentionBlock:
    """Attention of equally shaped blocks: B blocks of N rows of at most L tokens, each seeing its
    block's P prefix tokens and itself.
    """

    rows: torch.Tensor
    """int64 (B, N, L): places in the flat row. Behind a row's end stands its own last token again:
    what comes of it is thrown away.
    """
    lengths: torch.Tensor
    """int64 (B, N)."""
    prefix: torch.Tensor | None
    """int64 (B, P), or None."""


@dataclass(frozen=True)
class Group:
    """A stretch of the flat row: the same number of tokens for each of some slots, in turn."""

    slots: tuple[int, ...]
    start: int
    length: int
    """Tokens of each slot. Behind those that it needs stands padding, which nothing attends to and
    nothing is predicted from.
    """
    drops: tuple[DropoutSpec | None, ...] = ()
    """What each slot drops; empty when none drops anything."""
    chosen: torch.Tensor | None = None
    """int64 (S * length,): the mask that each token takes of its slot's."""

    @property
    def stop(self) -> int:
        """Where the stretch ends."""
        return self.start + len(self.slots) * self.length

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """The group's part (S, length, width) of rows (T, width)."""
        return rows[self.start : self.stop].view(len(self.slots), self.length, -1)


@dataclass(frozen=True)
class LossTokens:
    """The supervised tokens of a flat row as a row of their own, slot by slot, with as many for
    each slot of a group; see tail.py.
    """

    places: torch.Tensor
    """int64 (R,): where they stand in the flat row; a slot with fewer than others has its last one
    repeated.
    """
    real: torch.Tensor
    """int64 (S,): which of the R are no such repetitions, in the order of `PackedBatch.places`."""
    back: torch.Tensor
    """int64 (S,): `PackedBatch.places`; behind the end of the flat row for what only fills up."""
    groups: list[Group]


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a flat row and its parts. A row may be filled up to those of another, to run the
    very same kernels again.
    """

    slots: tuple[int, ...]
    """How many stand in each group."""
    lengths: tuple[int, ...]
    """Tokens of each slot, by group."""
    tails: tuple[int, ...]
    """Supervised tokens of each slot, by group."""
    rectangles: tuple[tuple[int, int, int, int], ...]
    """Blocks, rows of a block, tokens of a row, tokens of the common beginning."""
    supervised: int
    """S."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(count * length for count, length in zip(self.slots, self.lengths, strict=True))

    @property
    def kind(self) -> Any:
        """What no filling up makes equal."""
        return self.slots, tuple((blocks, prefix) for blocks, _, _, prefix in self.rectangles)

    @property
    def sizes(self) -> list[int]:
        """What may be more."""
        return [
            *self.lengths,
            *self.tails,
            self.supervised,
            *(size for rectangle in self.rectangles for size in rectangle[1:3]),
        ]

    def of(self, sizes: list[int]) -> BatchShape:
        """A room of the same kind with other sizes."""
        number = len(self.slots)
        rows, tokens = sizes[2 * number + 1 :: 2], sizes[2 * number + 2 :: 2]
        rectangles = tuple(
            (old[0], *new, old[3])
            for old, new in zip(self.rectangles, zip(rows, tokens, strict=True), strict=True)
        )
        return BatchShape(
            self.slots,
            tuple(sizes[:number]),
            tuple(sizes[number : 2 * number]),
            rectangles,
            sizes[2 * number],
        )


@dataclass
class PackedBatch:
    """One forward pass of the pack over T tokens, S of them supervised. Made on the CPU, then
    moved.
    """

    ids: torch.Tensor
    """int64 (1, T)."""
    positions: torch.Tensor
    """int64 (1, T): place of a token in its own example."""
    groups: list[Group]
    rectangles: list[AttentionBlock]
    places: torch.Tensor
    """int64 (S,): from which token of the flat row a supervised token is predicted."""
    targets: torch.Tensor
    """int64 (S,): the supervised tokens."""
    weights: torch.Tensor
    """float32 (S,)."""
    owners: torch.Tensor
    """int64 (S,): which of `slots` it belongs to."""
    answers: torch.Tensor
    """int64 (S,): number of the example within this layout."""
    members: torch.Tensor | None
    """int64 (T,): number of an example within this layout that a token belongs to, of several the
    first.
    """
    examples: list[tuple[int, int]]
    """(slot, row of its batch) of each example, in order."""
    num_padded: int = 0
    """Tokens that only fill up."""
    num_filled: int = 0
    """Supervised tokens that only fill up: the last one, repeated without weight."""
    room: BatchShape | None = None
    """What it was filled up to."""
    row: LossTokens | None = None
    """What the last feed-forward block sees of it, where that is less than all."""
    below: torch.Tensor | None = None
    """(1, T, H): what enters the first layer with an adapter, where that is known; see trunk.py."""
    known_maps: dict[tuple[int, int], Any] = field(default_factory=dict)
    """What maps.py has derived from `rectangles`, by numbers of heads."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model is given."""
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "use_cache": False,
            "pack": self,
        }

    @property
    def slots(self) -> list[int]:
        """Whose tokens these are, in order."""
        return [slot for group in self.groups for slot in group.slots]
