"""The packed batch: one flat row that holds the tokens of all slots of a forward pass.

Pure bookkeeping: which token of which slot stands where, what it may attend to, and what is
predicted from it. `batch/builder.py` makes it. The arithmetic is in `pack/attention`,
`pack/layers` and `pack/engine.py`.

Implementation notes
--------------------
The row of a pass over two slots with one prompt each, three and two examples (P is the common
prefix, a to e are the examples' own tokens, . is padding):

    groups[0]           slot 1                     slot 2
                 |------ length ------|     |------ length ------|
    ids          P P P P a a a b b c c      P P P d d d e e . . .
    positions    0 1 2 3 4 5 6 4 5 4 5      0 1 2 3 4 5 3 4 0 0 0
    attends to   P sees P; a sees P and a; b sees P and b; never another example or slot

Invariants:
- A prefix stands once per slot, so it is computed once. An example's last token is only predicted,
  so it does not stand in the row.
- The tokens of a slot are contiguous. The slots of a `Group` have equally many tokens, padding
  included: one batched product serves their adapters.
- `loss_positions`, `targets`, `weights`, `owners` and `answers` have one entry per supervised
  token, in the order of the row. Logits are computed at these positions only.
- Padding stands at position 0, is attended to by nobody, and has no loss.

Shapes: T tokens, S supervised tokens, R tokens that the last MLP computes, B attention blocks of N
rows of L tokens with P prefix tokens, H the width of a hidden state.

Cost: with n examples of l tokens after a prefix of p, a slot takes p + n * l tokens instead of
n * (p + l). Attention takes B * N * L * (P + L) scores per head.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from jobs.model.seeded_dropout import DropoutSpec


@dataclass
class AttentionBlock:
    """B equally shaped blocks of attention.

    A block has N rows of at most L tokens. A row sees the block's P prefix tokens and itself.
    """

    rows: torch.Tensor
    """int64 (B, N, L): positions in the flat row. A shorter row repeats its last token; the
    repetitions' output is thrown away.
    """
    lengths: torch.Tensor
    """int64 (B, N): tokens of each row."""
    prefix: torch.Tensor | None
    """int64 (B, P): positions of the prefix tokens; None when P is 0."""


@dataclass(frozen=True)
class Group:
    """Neighbouring slots of the flat row that have equally many tokens each."""

    slots: tuple[int, ...]
    start: int
    length: int
    """Tokens of each slot, padding included."""
    drops: tuple[DropoutSpec | None, ...] = ()
    """What each slot drops; empty when none drops anything."""
    chosen: torch.Tensor | None = None
    """int64 (S * length,): the mask that each token takes of its slot's."""

    @property
    def stop(self) -> int:
        """The position after the group's last token."""
        return self.start + len(self.slots) * self.length

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """The group's part (S, length, width) of rows (T, width)."""
        return rows[self.start : self.stop].view(len(self.slots), self.length, -1)


@dataclass(frozen=True)
class LossTokens:
    """The supervised tokens of a flat row as a row of their own, slot by slot, with as many for
    each slot of a group; see tail.py.
    """

    positions: torch.Tensor
    """int64 (R,): where they stand in the flat row; a slot with fewer than others has its last one
    repeated.
    """
    real: torch.Tensor
    """int64 (S,): which of the R are no such repetitions, in the order of
    `PackedBatch.loss_positions`.
    """
    back: torch.Tensor
    """int64 (S,): `PackedBatch.loss_positions`. A repetition that only fills up points to T, behind
    the end of the row.
    """
    groups: list[Group]


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a packed batch.

    A batch may be padded to the sizes of another one, so that the same captured kernels run again.
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
    def kind(self) -> Hashable:
        """The sizes that padding cannot change: slots by group, blocks and prefix lengths."""
        return self.slots, tuple((blocks, prefix) for blocks, _, _, prefix in self.rectangles)

    @property
    def sizes(self) -> list[int]:
        """The sizes that padding can increase; `of` takes them in the same order."""
        return [
            *self.lengths,
            *self.tails,
            self.supervised,
            *(size for rectangle in self.rectangles for size in rectangle[1:3]),
        ]

    def of(self, sizes: list[int]) -> BatchShape:
        """A shape of the same kind with other `sizes`."""
        num_groups = len(self.slots)
        rows = sizes[2 * num_groups + 1 :: 2]
        tokens = sizes[2 * num_groups + 2 :: 2]
        rectangles = tuple(
            (old[0], *new, old[3])
            for old, new in zip(self.rectangles, zip(rows, tokens, strict=True), strict=True)
        )
        return BatchShape(
            self.slots,
            tuple(sizes[:num_groups]),
            tuple(sizes[num_groups : 2 * num_groups]),
            rectangles,
            sizes[2 * num_groups],
        )


@dataclass
class PackedBatch:
    """One forward pass of the pack over T tokens, S of them supervised. Made on the CPU, then
    moved.
    """

    ids: torch.Tensor
    """int64 (1, T)."""
    positions: torch.Tensor
    """int64 (1, T): position of a token in its own example."""
    groups: list[Group]
    rectangles: list[AttentionBlock]
    loss_positions: torch.Tensor
    """int64 (S,): from which token of the flat row a supervised token is predicted."""
    targets: torch.Tensor
    """int64 (S,): the supervised tokens."""
    weights: torch.Tensor
    """float32 (S,): what a supervised token counts in its slot's loss."""
    owners: torch.Tensor
    """int64 (S,): which of `slots` it belongs to."""
    answers: torch.Tensor
    """int64 (S,): index into `examples`."""
    members: torch.Tensor | None
    """int64 (T,): index into `examples`; a prefix token belongs to the first of its examples."""
    examples: list[tuple[int, int]]
    """(slot, row of its batch) of each example, in order."""
    num_padded: int = 0
    """Tokens that only fill up."""
    num_filled: int = 0
    """Supervised tokens that only fill up: the last one, repeated without weight."""
    room: BatchShape | None = None
    """The shape that it was padded to; None for no padding."""
    row: LossTokens | None = None
    """The tokens that the last MLP computes; None for all."""
    below: torch.Tensor | None = None
    """(1, T, H): the input of the first layer with an adapter, from the hidden-state cache; None
    when the layers below must run.
    """
    gather_indices: dict[tuple[int, int], Any] = field(default_factory=dict)
    """Index tensors of the attention, by (heads, key-value heads); see attention/gather_indices.py.
    """

    @property
    def inputs(self) -> dict[str, Any]:
        """The keyword arguments of the model's forward."""
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "use_cache": False,
            "pack": self,
        }

    @property
    def slots(self) -> list[int]:
        """The slots in the order of the row."""
        return [slot for group in self.groups for slot in group.slots]
