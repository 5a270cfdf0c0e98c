"""Linear layers that serve many LoRA adapters at once (Hu et al., 2021): one product with the frozen weight for all tokens, and for each
slot the low-rank update of its own stretch of the flat row, slots of equally many tokens in one batched product.

Adapters are never concatenated and masked: 0 x NaN is NaN, so one diverged slot would poison the others.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from jobs.pack.adapter import Adapter, Shape, Stack
from jobs.pack.layout import Group


class Active:
    """Whose tokens stand where in the present forward pass; shared by all layers of a model."""

    def __init__(self) -> None:
        self.adapters: dict[int, Adapter] = {}
        self.stacks: dict[int, Stack] = {}
        """By family; see adapter.Adapter.family."""
        self.places: dict[int, tuple[Stack, int]] = {}
        """Which row of which stack an arranged slot has."""
        self.groups: list[Group] = []
        self.layers: list[PackedLoRALinear] = []
        self.anchor = torch.zeros((), requires_grad=True)
        """Ties every layer to the graph: adapters collect their gradients themselves."""
        self.seen: dict[int, torch.Tensor] | None = {}
        """What each layer was given first, until `join_layers`."""
        self.joined: dict[int, list[PackedLoRALinear]] = {}
        """Layers that read the same rows, by the number of the first of them."""
        self.ready: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """What the first of joined layers was given, and what another of them makes of it."""

    def join_layers(self) -> None:
        """Let layers that were given the very same tensor, as q, k and v are, be computed together from now on."""
        seen, self.seen = self.seen or {}, None
        for _, group in itertools.groupby(self.layers, lambda layer: id(seen.get(layer.number, layer))):
            together = list(group)
            self.joined[together[0].number] = together

    def arrange(self, order: list[int]) -> None:
        """Lay the weights of these slots, as they now are, side by side in this order; slots of one family must follow each other.

        What gathers for them from now on starts at zero.
        """
        self.places = {}
        for family, numbers in itertools.groupby(order, lambda number: self.adapters[number].family):
            stack = self._stack(family)
            for row, number in enumerate(numbers):
                stack.take(row, self.adapters[number])
                self.places[number] = stack, row

    def _stack(self, family: int) -> Stack:
        """Room for every slot of a family, whether it is trained now or not, so that a slot's arithmetic does not hang on its neighbours."""
        members = [adapter for adapter in self.adapters.values() if adapter.family == family]
        need = len(members), max(member.rank for member in members)
        if family not in self.stacks or (self.stacks[family].num_rows, self.stacks[family].rank) != need:
            self.stacks = {known: stack for known, stack in self.stacks.items() if known != family}
            self.stacks[family] = Stack(members[0].shapes, *need, members[0].dtype, members[0].weights.device)
        return self.stacks[family]

    def collect(self) -> None:
        """Hand every arranged slot the gradient that has gathered for it."""
        for number, (stack, row) in self.places.items():
            stack.give(row, self.adapters[number])

    def blocks(self) -> list[tuple[Group, Stack, slice]]:
        """The groups of the present pass, each with the rows of its stack."""
        found = []
        for group in self.groups:
            stack, row = self.places[group.slots[0]]
            found.append((group, stack, slice(row, row + len(group.slots))))
        return found


class PackedLoRALinear(torch.nn.Module):
    """A frozen linear layer with the adapters of all slots; takes the place of the layer in the model."""

    def __init__(self, base: torch.nn.Module, number: int, active: Active) -> None:
        super().__init__()
        self.base, self.number, self.active = base, number, active
        self.flipped = type(base).__name__ == "Conv1D"  # GPT-2's layers keep their weight as (in, out)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight, as the layer keeps it; some models look at its number format."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def matrix(self) -> torch.Tensor:
        """The frozen weight (out, in)."""
        return self.weight.t() if self.flipped else self.weight

    @property
    def bias(self) -> Any:
        """The frozen bias or None."""
        return self.base.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., T, in) -> (..., T, out) for the T tokens of the flat row."""
        active = self.active
        if active.seen is not None:
            active.seen.setdefault(self.number, inputs)
        if not active.groups:
            return torch.nn.functional.linear(inputs, self.matrix, self.bias)
        given, ready = active.ready.pop(self.number, (None, None))
        if ready is not None and given is inputs:
            return ready
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) != active.groups[-1].stop:
            raise ValueError("a layer with an adapter sees other tokens than the row's")
        layers = active.joined.get(self.number, [self])
        outs: tuple[torch.Tensor, ...] = Product.apply(rows, active.anchor, active, layers)  # type: ignore[assignment]
        first, *others = (out.view(*inputs.shape[:-1], -1) for out in outs)
        active.ready = {layer.number: (inputs, out) for layer, out in zip(layers[1:], others, strict=True)}
        return first


class Product(torch.autograd.Function):
    """x (T, in) -> for each of the layers x W^T + bias, plus each slot's x A^T B on its own rows; gradients of A and B gather in the stacks.

    Slots of a group have equally many rows: one batched product serves them. The layers' A are one matrix: thin products read x once.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, anchor: torch.Tensor, active: Active, layers: list[PackedLoRALinear]
    ) -> tuple[torch.Tensor, ...]:
        outs = [torch.nn.functional.linear(rows, layer.matrix, layer.bias) for layer in layers]
        blocks, hidden = active.blocks(), []
        for group, stack, part in blocks:
            low = torch.bmm(group.of(rows), stack.joint(layers[0].number, len(layers))[part].transpose(1, 2))
            for layer, out, own in zip(layers, outs, low.split(stack.rank, 2), strict=True):
                group.of(out).baddbmm_(own, stack.b[layer.number][part])
            hidden.append(low)
        ctx.layers, ctx.blocks = layers, blocks
        ctx.save_for_backward(rows, *hidden)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        rows, *hidden = ctx.saved_tensors
        back = None
        for layer, gradient in zip(ctx.layers, gradients, strict=True) if ctx.needs_input_grad[0] else ():
            back = torch.mm(gradient, layer.matrix) if back is None else back.addmm_(gradient, layer.matrix)
        for block, low in zip(ctx.blocks, hidden, strict=True):
            add_gradients(ctx.layers, block, low, rows, gradients, back)
        return back, None, None, None


def add_gradients(layers: Any, block: Any, low: torch.Tensor, rows: torch.Tensor, gradients: Any, back: torch.Tensor | None) -> None:
    """One group's part of the backward of layers that read the same rows: its gradients, and what its adapters add to the rows' gradient."""
    group, stack, part = block
    first, count, inners = layers[0].number, len(layers), []
    for layer, whole, own in zip(layers, gradients, low.split(stack.rank, 2), strict=True):
        gradient = group.of(whole)
        inners.append(torch.bmm(gradient, stack.b[layer.number][part].transpose(1, 2)))
        add_product(stack.gradient_b[layer.number][part], own.transpose(1, 2), gradient)
    inner = inners[0] if count == 1 else torch.cat(inners, 2)
    add_product(stack.gradient_joint(first, count)[part], inner.transpose(1, 2), group.of(rows))
    if back is not None:
        group.of(back).baddbmm_(inner, stack.joint(first, count)[part])


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right for each slot, in float32 whatever format the factors have."""
    if left.dtype == torch.float32:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))


def inject(model: Any, names: list[str], active: Active) -> list[Shape]:
    """Put a PackedLoRALinear in the place of each named layer. Raises ValueError for a layer that is no plain linear one."""
    shapes = []
    for number, name in enumerate(names):
        layer = model.get_submodule(name)
        kind = type(layer).__name__
        if not isinstance(layer, torch.nn.Linear) and kind != "Conv1D":
            raise ValueError(f"{name} is a {kind}, not a linear layer")
        parent, _, last = name.rpartition(".")
        active.layers.append(PackedLoRALinear(layer, number, active))
        setattr(model.get_submodule(parent), last, active.layers[-1])
        out, width = reversed(layer.weight.shape) if kind == "Conv1D" else layer.weight.shape  # type: ignore[union-attr]
        shapes.append(Shape(name, int(width), int(out)))
    return shapes
