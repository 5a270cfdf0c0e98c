"""The end of the last layer for those tokens only that something is predicted from: what the others would become there, nobody reads.

After the last attention each token is on its own. So the last feed-forward block gets the supervised tokens, and gives zeros for the rest,
which the head never sees. At the usual four of twenty tokens that is a fiftieth of a model of 30 layers. Found by name, tried by check.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jobs.pack.layout import Group, Layout
from jobs.pack.lora import Active

BLOCK = "mlp"
"""What transformers' decoders call the feed-forward block of a layer."""


@dataclass(frozen=True)
class Row:
    """The supervised tokens of a flat row as a row of their own, slot by slot, with as many for each slot of a group."""

    places: torch.Tensor
    """int64 (R,): where they stand in the flat row; a slot with fewer than others has its last one repeated."""
    real: torch.Tensor
    """int64 (S,): which of the R are no such repetitions, in the order of `layout.places`."""
    groups: list[Group]
    layout: Layout


def row_of(layout: Layout) -> Row | None:
    """The supervised tokens of a layout; None where that saves little."""
    own: list[list[int]] = [[] for _ in layout.slots]
    for place, owner in zip(layout.places.tolist(), layout.owners.tolist(), strict=True):
        own[owner].append(place)
    if not all(own):
        return None
    places: list[int] = []
    real: list[int] = []
    groups = []
    for group in layout.groups:
        members, own = own[: len(group.slots)], own[len(group.slots) :]
        start, length = len(places), max(map(len, members))
        for member in members:
            real += range(len(places), len(places) + len(member))
            places += member + member[-1:] * (length - len(member))
        chosen = None if group.chosen is None else group.chosen[torch.tensor(places[start:]) - group.start]
        groups.append(Group(group.slots, start, length, group.drops, chosen))
    if 2 * len(places) > layout.ids.shape[1]:
        return None
    device = layout.ids.device
    return Row(torch.tensor(places, device=device), torch.tensor(real, device=device), groups, layout)


class Tail:
    """Keeps the last feed-forward block of a model to the tokens that matter."""

    def __init__(self, model: Any, active: Active) -> None:
        self.active = active
        self.row: Row | None = None
        """Of the forward pass under way."""
        self.handles: list[Any] = []
        stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) > 0]
        self.block: Any = getattr(max(stacks, key=len)[-1], BLOCK, None) if stacks else None

    def attach(self) -> None:
        """Begin. A model without such a block stays as it is."""
        if isinstance(self.block, torch.nn.Module):
            self.handles = [self.block.register_forward_pre_hook(self.narrow), self.block.register_forward_hook(self.widen)]

    def detach(self) -> bool:
        """Leave the block as it was; whether that changes anything."""
        attached = bool(self.handles)
        while self.handles:
            self.handles.pop().remove()
        return attached

    def begin(self, layout: Layout) -> None:
        """A forward pass begins."""
        self.row = row_of(layout) if self.handles else None

    def narrow(self, module: Any, inputs: Any) -> Any:
        """All tokens (1, T, H) -> the supervised ones (1, R, H)."""
        if self.row is None:
            return None
        self.active.groups = self.row.groups
        return (inputs[0].index_select(1, self.row.places), *inputs[1:])

    def widen(self, module: Any, inputs: Any, output: torch.Tensor) -> Any:
        """(1, R, H) -> (1, T, H)."""
        if self.row is None:
            return None
        layout = self.row.layout
        self.active.groups = layout.groups
        whole = output.new_zeros(1, layout.ids.shape[1], output.shape[-1])
        return whole.index_copy(1, layout.places, output.index_select(1, self.row.real))
