"""The end of the last layer for those tokens only that something is predicted from: what the others
would become there, nobody reads.

After the last attention each token is on its own. So the last feed-forward block gets the
supervised tokens, and gives zeros for the rest, which the head never sees. At the usual four of
twenty tokens that is a fiftieth of a model of 30 layers. Found by name, tried by check.py.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.pack.batch.packed_batch import Group, LossTokens, PackedBatch
from jobs.pack.layers.hidden_cache import layers_of
from jobs.pack.layers.lora_linear import AdapterStacks

BLOCK = "mlp"
"""What transformers' decoders call the feed-forward block of a layer."""


def row_of(layout: PackedBatch) -> LossTokens | None:
    """The supervised tokens of a layout; None where that saves little."""
    own: list[list[int]] = [[] for _ in layout.slots]
    num_real = len(layout.places) - layout.num_filled
    for place, owner in zip(
        layout.places[:num_real].tolist(), layout.owners[:num_real].tolist(), strict=True
    ):
        own[owner].append(place)
    if not all(own):
        return None
    places: list[int] = []
    real: list[int] = []
    groups = []
    for number, group in enumerate(layout.groups):
        members, own = own[: len(group.slots)], own[len(group.slots) :]
        start, length = (
            len(places),
            max(map(len, members)) if layout.room is None else layout.room.tails[number],
        )
        for member in members:
            real += range(len(places), len(places) + len(member))
            places += member + member[-1:] * (length - len(member))
        chosen = (
            None
            if group.chosen is None
            else group.chosen[torch.tensor(places[start:]) - group.start]
        )
        groups.append(Group(group.slots, start, length, group.drops, chosen))
    if 2 * len(places) > layout.ids.shape[1]:
        return None
    real += real[-1:] * layout.num_filled
    back = layout.places.clone()
    back[num_real:] = layout.ids.shape[1]
    return LossTokens(torch.tensor(places), torch.tensor(real), back, groups)


class SelectiveMLP:
    """Keeps the last feed-forward block of a model to the tokens that matter."""

    def __init__(self, model: Any, active: AdapterStacks) -> None:
        self.active = active
        self.layout: PackedBatch | None = None
        """Of the forward pass under way, if the block sees only a part of it."""
        self.handles: list[Any] = []
        self.block: Any = next(
            (getattr(layer, BLOCK, None) for layer in reversed(layers_of(model))), None
        )

    def attach(self) -> None:
        """Begin. A model without such a block stays as it is."""
        if isinstance(self.block, torch.nn.Module):
            self.handles = [
                self.block.register_forward_pre_hook(self.narrow),
                self.block.register_forward_hook(self.widen),
            ]

    def detach(self) -> bool:
        """Leave the block as it was; whether that changes anything."""
        attached = bool(self.handles)
        while self.handles:
            self.handles.pop().remove()
        return attached

    def begin(self, layout: PackedBatch | None) -> None:
        """A forward pass begins, or has ended."""
        self.layout = layout if layout is not None and layout.row is not None else None

    def narrow(self, module: Any, inputs: Any) -> Any:
        """All tokens (1, T, H) -> the supervised ones (1, R, H)."""
        if self.layout is None or self.layout.row is None:
            return None
        self.active.groups = self.layout.row.groups
        return (inputs[0].index_select(1, self.layout.row.places), *inputs[1:])

    def widen(self, module: Any, inputs: Any, output: torch.Tensor) -> Any:
        """(1, R, H) -> (1, T, H)."""
        layout = self.layout
        if layout is None or layout.row is None:
            return None
        self.active.groups = layout.groups
        num_tokens = layout.ids.shape[1]
        whole = output.new_zeros(1, num_tokens + (layout.room is not None), output.shape[-1])
        return whole.index_copy(1, layout.row.back, output.index_select(1, layout.row.real))[
            :, :num_tokens
        ]
