"""Linear layers that serve many LoRA adapters at once (Hu et al., 2021): one product with the
frozen weight for all tokens, and for each slot the low-rank update of its own stretch of the flat
row, slots of equally many tokens in one batched product.

Adapters are never concatenated and masked: 0 x NaN is NaN, so one diverged slot would poison the
others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch

from jobs.model import frozen_linear
from jobs.model.frozen_linear import PrepackedLinear
from jobs.pack.batch.dropout import masks
from jobs.pack.batch.packed_batch import Group
from jobs.pack.batch.prefix_groups import PrefixGroup
from jobs.pack.layers.adapter_weights import Adapter, FusedLayers, Shape, StackedAdapters

Block = tuple[Group, StackedAdapters, slice]
"""Slots of equally many tokens, their stack, and its rows that are theirs."""


class AdapterStacks:
    """Whose tokens stand where in the present forward pass; shared by all layers of a model."""

    def __init__(self) -> None:
        self.adapters: dict[int, Adapter] = {}
        self.stacks: dict[int, StackedAdapters] = {}
        """By family; see adapter.Adapter.family."""
        self.stack_rows: dict[int, tuple[StackedAdapters, int]] = {}
        """Which row of which stack an arranged slot has."""
        self.begun: set[int] = set()
        """Slots that have been given a gradient since they were arranged."""
        self.groups: list[Group] = []
        self.layers: list[PackedLoRALinear] = []
        self.anchor = torch.zeros((), requires_grad=True)
        """Ties every layer to the graph: adapters collect their gradients themselves."""
        self.first_inputs: dict[int, torch.Tensor] | None = {}
        """What each layer was given first, until `join_layers`."""
        self.joints: FusedLayers = []
        """Which layers are computed together."""
        self.ready: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """What the first of joined layers was given, and what another of them makes of it."""

    def add(self, layer: PackedLoRALinear) -> None:
        """One more layer, by itself for now."""
        layer.joint = len(self.joints)
        self.joints.append([len(self.layers)])
        self.layers.append(layer)

    def join_layers(self) -> None:
        """Let layers that were given the very same tensor, as q, k and v are, be computed together
        from now on.
        """
        first_inputs = self.first_inputs or {}
        self.first_inputs = None
        together = itertools.groupby(
            self.layers, lambda layer: id(first_inputs.get(layer.index, layer))
        )
        self.joints = [[layer.index for layer in group] for _, group in together]
        call_order = {layer_index: index for index, layer_index in enumerate(first_inputs)}
        for joint, layer_indices in enumerate(self.joints):
            leader = min(layer_indices, key=lambda layer_index: call_order.get(layer_index, -1))
            for layer_index in layer_indices:
                self.layers[layer_index].joint = joint
                self.layers[layer_index].leads = layer_index == leader

    def stands(self, prefix_groups: list[PrefixGroup]) -> tuple[tuple[StackedAdapters, int], ...]:
        """Whose weights the kernels of a pass read: stack and row of each of its slots, in
        order.
        """
        return tuple(
            self.stack_rows[slot_id]
            for slot_id in dict.fromkeys(prefix_group.slot for prefix_group in prefix_groups)
        )

    def arrange(self, order: list[int]) -> None:
        """Lay the weights of these slots, as they now are, side by side in this order; slots of one
        family must follow each other.

        With this their gradients begin anew.
        """
        self.stack_rows = {}
        self.begun = set()
        for family, slot_ids in itertools.groupby(
            order, lambda slot_id: self.adapters[slot_id].family
        ):
            members = [adapter for adapter in self.adapters.values() if adapter.family == family]
            if family not in self.stacks or not self.stacks[family].fits(members, self.joints):
                self.stacks.pop(family, None)
                self.stacks[family] = StackedAdapters(members, self.joints)
            for row, slot_id in enumerate(slot_ids):
                self.stacks[family].take(row, self.adapters[slot_id])
                self.stack_rows[slot_id] = self.stacks[family], row

    def collect(self, slot_ids: list[int]) -> None:
        """Hand the slots of a pass the gradients that it gave them."""
        for slot_id in slot_ids:
            stack, row = self.stack_rows[slot_id]
            stack.give(row, self.adapters[slot_id], slot_id not in self.begun)
            self.begun.add(slot_id)

    def leave(self, slot_id: int) -> None:
        """Forget a slot."""
        del self.adapters[slot_id]
        self.stack_rows.pop(slot_id, None)
        families = {adapter.family for adapter in self.adapters.values()}
        self.stacks = {family: stack for family, stack in self.stacks.items() if family in families}

    def blocks(self) -> list[Block]:
        """The groups of the present pass, each with the rows of its stack."""
        group_blocks = []
        for group in self.groups:
            stack, row = self.stack_rows[group.slots[0]]
            group_blocks.append((group, stack, slice(row, row + len(group.slots))))
        return group_blocks


class PackedLoRALinear(torch.nn.Module):
    """A frozen linear layer with the adapters of all slots; takes the place of the layer in the
    model.
    """

    def __init__(self, base: torch.nn.Linear, index: int, active: AdapterStacks) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self.active = active
        self.frozen = PrepackedLinear(base)
        self.joint = index
        """Number of its group of layers."""
        self.leads = True
        """Whether it is the first of its group that a forward pass calls."""

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight, as the layer keeps it; some models look at its number format.

        [out, in], or [in, out] in a Conv1D.
        """
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The frozen bias or None.

        [out], in the format of the base.
        """
        return self.base.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., T, in) -> (..., T, out) for the T tokens of the flat row.

        In the format of the products.
        """
        active = self.active
        if active.first_inputs is not None:
            active.first_inputs.setdefault(self.index, inputs)
        if not active.groups:
            return frozen_linear.times(inputs, self.frozen)
        expected_inputs, ready = active.ready.pop(self.index, (None, None))
        if ready is not None and expected_inputs is inputs:
            return ready
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) != active.groups[-1].stop:
            raise ValueError("a layer with an adapter sees other tokens than the row's")
        layers = [active.layers[index] for index in active.joints[self.joint]]
        if not self.leads:
            raise ValueError("layers that read the same rows at first do so no longer")
        outs: tuple[torch.Tensor, ...] = LoRALinearFunction.apply(
            rows, active.anchor, active, layers
        )  # type: ignore[assignment]
        shaped = ((inputs, out.view(*inputs.shape[:-1], -1)) for out in outs)
        active.ready = dict(zip((layer.index for layer in layers), shaped, strict=True))
        return active.ready.pop(self.index)[1]


class LoRALinearFunction(torch.autograd.Function):
    """x (T, in) -> for each of the layers x W^T + bias, plus each slot's x A^T B on its own rows;
    gradients of A and B go to the stacks.

    Slots of a group have equally many rows: one batched product serves them. The layers' A are one
    matrix: thin products read x once.

    In: rows [tokens, in]. Out: for each layer [tokens, out]. All in the format of the products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        anchor: torch.Tensor,
        active: AdapterStacks,
        layers: list[PackedLoRALinear],
    ) -> tuple[torch.Tensor, ...]:
        outs = [layer.frozen.forth(rows) for layer in layers]
        blocks = active.blocks()
        hidden = []
        for group, stack, stack_slice in blocks:
            low = project_down(group, group.of(rows), stack.a[layers[0].joint][stack_slice], layers)
            for layer, out, layer_low in zip(layers, outs, low.split(stack.rank, 2), strict=True):
                group.of(out).baddbmm_(layer_low, stack.b[layer.index][stack_slice])
            hidden.append(low)
        ctx.layers = layers
        ctx.blocks = blocks
        ctx.save_for_backward(rows, *hidden)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, *hidden = ctx.saved_tensors
        back = None
        if ctx.needs_input_grad[0]:
            for layer, gradient in zip(ctx.layers, gradients, strict=True):
                back = layer.frozen.back(gradient, back)
        for block, low in zip(ctx.blocks, hidden, strict=True):
            add_gradients(ctx.layers, block, low, rows, gradients, back)
        return back, None, None, None


def project_down(
    group: Group, rows: torch.Tensor, a: torch.Tensor, layers: list[PackedLoRALinear]
) -> torch.Tensor:
    """Rows (S, n, in) times the A of the layers (S, layers * R, in): (S, n, layers * R). Each layer
    drops by its own masks.

    All in the format of the products.
    """
    if group.chosen is None:
        return torch.bmm(rows, a.transpose(1, 2))
    by_layer = zip(layers, a.chunk(len(layers), 1), strict=True)
    return torch.cat(
        [
            torch.bmm(rows * masks(group, layer.index, rows), layer_a.transpose(1, 2))
            for layer, layer_a in by_layer
        ],
        2,
    )


def add_gradients(
    layers: list[PackedLoRALinear],
    block: Block,
    low: torch.Tensor,
    rows: torch.Tensor,
    gradients: Sequence[torch.Tensor],
    back: torch.Tensor | None,
) -> None:
    """One group's part of the backward of layers that read the same rows: its gradients, and what
    its adapters add to those of the rows.

    All in the format of the products: `low` [slots, length, layers * rank] is what the forward has
    projected down, `rows` [tokens, in], each of `gradients` [tokens, out], `back` [tokens, in] or
    None where nobody asks for it. Changes the stack's gradients and `back` in place.
    """
    group, stack, stack_slice = block
    joint = layers[0].joint
    inners = []
    for layer, layer_gradient, layer_low in zip(
        layers, gradients, low.split(stack.rank, 2), strict=True
    ):
        gradient = group.of(layer_gradient)
        inners.append(torch.bmm(gradient, stack.b[layer.index][stack_slice].transpose(1, 2)))
        torch.bmm(
            layer_low.transpose(1, 2), gradient, out=stack.gradient_b[layer.index][stack_slice]
        )
    a = stack.a[joint][stack_slice]
    room = stack.gradient_a[joint][stack_slice]
    own_back = None if back is None else group.of(back)
    if group.chosen is not None:
        masked_gradients(group, layers, inners, group.of(rows), a, room, own_back)
        return
    inner = inners[0] if len(inners) == 1 else torch.cat(inners, 2)
    torch.bmm(inner.transpose(1, 2), group.of(rows), out=room)
    if own_back is not None:
        own_back.baddbmm_(inner, a)


def masked_gradients(
    group: Group,
    layers: list[PackedLoRALinear],
    inners: list[torch.Tensor],
    rows: torch.Tensor,
    a: torch.Tensor,
    room: torch.Tensor,
    back: torch.Tensor | None,
) -> None:
    """What `add_gradients` does with A, where each layer has its own masks.

    `inners` are [slots, length, rank], one for each layer, `rows` and `back` [slots, length, in],
    `a` and `room` [slots, layers * rank, in], all in the format of the products. Changes `room` and
    `back` in place.
    """
    for layer, inner, layer_a, layer_gradient_a in zip(
        layers, inners, a.chunk(len(layers), 1), room.chunk(len(layers), 1), strict=True
    ):
        mask = masks(group, layer.index, rows)
        layer_gradient_a.copy_(torch.bmm(inner.transpose(1, 2), rows * mask))
        if back is not None:
            back.add_(torch.bmm(inner, layer_a).mul_(mask))


def inject(model: torch.nn.Module, names: list[str], active: AdapterStacks) -> list[Shape]:
    """Put a PackedLoRALinear in the place of each named layer. Raises ValueError for a layer that
    is no plain linear one.
    """
    shapes = []
    for index, name in enumerate(names):
        layer = model.get_submodule(name)
        kind = type(layer).__name__
        if not isinstance(layer, torch.nn.Linear) and kind != "Conv1D":
            raise ValueError(f"{name} is a {kind}, not a linear layer")
        parent, _, attribute = name.rpartition(".")
        active.add(PackedLoRALinear(cast("torch.nn.Linear", layer), index, active))
        setattr(model.get_submodule(parent), attribute, active.layers[-1])
        out, width = reversed(layer.weight.shape) if kind == "Conv1D" else layer.weight.shape  # type: ignore[union-attr]
        shapes.append(Shape(name, int(width), int(out)))
    return shapes
