"""The MLP of the last layer, computed for supervised tokens only.

After the last attention no token reads another one. So the last MLP gets the supervised tokens,
and gives zeros for the others, which the head never reads. At the usual four of twenty tokens this
saves a fiftieth of a model of 30 layers. The block is found by its name; pack/compatibility.py
tries whether the result stays the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from jobs.pack.batch.packed_batch import Group, LossTokens, PackedBatch
from jobs.pack.layers.hidden_cache import layers_of
from jobs.pack.layers.lora_linear import AdapterStacks

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

BLOCK = "mlp"
"""What transformers' decoders call the feed-forward block of a layer."""


def row_of(layout: PackedBatch) -> LossTokens | None:
    """The supervised tokens of a batch; None where computing them alone saves little.

    Slots of a group get equally many: a slot with fewer repeats its last one.
    """
    positions_by_slot: list[list[int]] = [[] for _ in layout.slots]
    num_real = len(layout.loss_positions) - layout.num_filled
    for position, owner in zip(
        layout.loss_positions[:num_real].tolist(), layout.owners[:num_real].tolist(), strict=True
    ):
        positions_by_slot[owner].append(position)
    if not all(positions_by_slot):
        return None
    positions: list[int] = []
    real: list[int] = []
    groups = []
    first_slot = 0
    for group_index, group in enumerate(layout.groups):
        of_group = positions_by_slot[first_slot : first_slot + len(group.slots)]
        first_slot += len(group.slots)
        start = len(positions)
        if layout.room is None:
            length = max(map(len, of_group))
        else:
            length = layout.room.tails[group_index]
        for of_slot in of_group:
            real += range(len(positions), len(positions) + len(of_slot))
            positions += of_slot + of_slot[-1:] * (length - len(of_slot))
        mask_indices = None
        if group.chosen is not None:
            mask_indices = group.chosen[torch.tensor(positions[start:]) - group.start]
        groups.append(Group(group.slots, start, length, group.drops, mask_indices))
    if 2 * len(positions) > layout.ids.shape[1]:
        return None
    real += real[-1:] * layout.num_filled
    back = layout.loss_positions.clone()
    back[num_real:] = layout.ids.shape[1]
    return LossTokens(torch.tensor(positions), torch.tensor(real), back, groups)


class SelectiveMLP:
    """Restricts the last MLP of a model to the supervised tokens, by hooks before and after it."""

    def __init__(self, model: PreTrainedModel, active: AdapterStacks) -> None:
        self.active = active
        self.layout: PackedBatch | None = None
        """The batch of the forward pass under way; None where the block computes all tokens."""
        self.handles: list[RemovableHandle] = []
        self.block: Any = next(
            (getattr(layer, BLOCK, None) for layer in reversed(layers_of(model))), None
        )

    def attach(self) -> None:
        """Set the hooks. A model without such a block stays as it is."""
        if isinstance(self.block, torch.nn.Module):
            self.handles = [
                self.block.register_forward_pre_hook(self.narrow),
                self.block.register_forward_hook(self.widen),
            ]

    def detach(self) -> bool:
        """Remove the hooks; returns whether there were any."""
        attached = bool(self.handles)
        while self.handles:
            self.handles.pop().remove()
        return attached

    def begin(self, layout: PackedBatch | None) -> None:
        """A forward pass begins, or has ended."""
        self.layout = layout if layout is not None and layout.row is not None else None

    def narrow(self, module: torch.nn.Module, inputs: Any) -> Any:
        """All tokens (1, T, H) -> the supervised ones (1, R, H).

        In the format of the base.
        """
        if self.layout is None or self.layout.row is None:
            return None
        self.active.groups = self.layout.row.groups
        return (inputs[0].index_select(1, self.layout.row.positions), *inputs[1:])

    def widen(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> Any:
        """(1, R, H) -> (1, T, H).

        In the format of the base.
        """
        layout = self.layout
        if layout is None or layout.row is None:
            return None
        self.active.groups = layout.groups
        num_tokens = layout.ids.shape[1]
        all_tokens = output.new_zeros(1, num_tokens + (layout.room is not None), output.shape[-1])
        return all_tokens.index_copy(1, layout.row.back, output.index_select(1, layout.row.real))[
            :, :num_tokens
        ]
