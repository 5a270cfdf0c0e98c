"""Linear layers that serve many LoRA adapters at once (Hu et al., 2021): one product with the frozen weight for all tokens, and per slot
the low-rank update of its own stretch of the flat row.

Adapters are never concatenated and masked: 0 x NaN is NaN, so one diverged slot would poison the others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from jobs.pack.layout import Segment


@dataclass(frozen=True)
class Shape:
    """A layer that carries an adapter."""

    name: str
    """Its dotted name in the model."""
    width_in: int
    width_out: int


class Adapter:
    """One slot's weights: A (rank, in) and B (rank, out) of every layer, as views into one flat float32 tensor, and its gradient likewise.

    The update of a layer is scale * x A^T B. `a` and `b` hold the weights in the number format that the products are computed in. The A of
    all layers come first, so that layers in a row that read the same rows have one A between them.
    """

    def __init__(self, shapes: list[Shape], rank: int, scale: float, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.rank, self.scale = shapes, rank, scale
        size = sum(rank * (shape.width_in + shape.width_out) for shape in shapes)
        self.weights = torch.nn.Parameter(torch.zeros(size, device=device), requires_grad=False)
        self.gradient = torch.zeros(size, device=device)
        self.working = self.weights.data if dtype == torch.float32 else torch.zeros(size, dtype=dtype, device=device)
        self.starts = [rank * start for start in itertools.accumulate((shape.width_in for shape in shapes), initial=0)]
        self.master_a, self.master_b = self._views(self.weights.data)
        _, self.gradient_b = self._views(self.gradient)
        _, self.b = self._views(self.working)
        self.b_t = [view.t() for view in self.b]
        self.joints: dict[tuple[int, int], tuple[torch.Tensor, ...]] = {}

    def _views(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A and B of every layer within a flat tensor."""
        a = flat[: self.starts[-1]].split([self.rank * shape.width_in for shape in self.shapes])
        b = flat[self.starts[-1] :].split([self.rank * shape.width_out for shape in self.shapes])
        return [view.view(self.rank, -1) for view in a], [view.view(self.rank, -1) for view in b]

    def joint(self, first: int, count: int) -> tuple[torch.Tensor, ...]:
        """A of layers in a row (count * rank, in), the same transposed, and its gradient."""
        if (first, count) not in self.joints:
            part, width = slice(self.starts[first], self.starts[first + count]), self.shapes[first].width_in
            a = self.working[part].view(-1, width)
            self.joints[first, count] = a, a.t(), self.gradient[part].view(-1, width)
        return self.joints[first, count]

    def refresh(self) -> None:
        """Bring the working copies up to date after the weights have changed."""
        if self.working.data_ptr() != self.weights.data_ptr():
            self.working.copy_(self.weights.data)

    def read(self, state: dict[str, torch.Tensor]) -> None:
        """Take the weights of an ordinary PEFT adapter, by its names."""
        for number, shape in enumerate(self.shapes):
            self.master_a[number].copy_(state[peft_name(shape.name, "A")])
            self.master_b[number].copy_(state[peft_name(shape.name, "B")].t())
        self.refresh()

    def written(self) -> dict[str, torch.Tensor]:
        """The weights as an ordinary PEFT adapter holds them."""
        state = {}
        for number, shape in enumerate(self.shapes):
            state[peft_name(shape.name, "A")] = self.master_a[number].clone().cpu()
            state[peft_name(shape.name, "B")] = self.master_b[number].t().contiguous().cpu()
        return state


def peft_name(layer: str, which: str) -> str:
    """The name of a tensor in adapter_model.safetensors."""
    return f"base_model.model.{layer}.lora_{which}.weight"


class Active:
    """Whose tokens stand where in the present forward pass; shared by all layers of a model."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.adapters: dict[int, Adapter] = {}
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
        if not active.segments:
            return torch.nn.functional.linear(inputs, self.matrix, self.bias)
        given, ready = active.ready.pop(self.number, (None, None))
        if ready is not None and given is inputs:
            return ready
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) != active.segments[-1].stop:
            raise ValueError("a layer with an adapter sees other tokens than the row's")
        layers = active.joined.get(self.number, [self])
        outs: tuple[torch.Tensor, ...] = Product.apply(rows, active.anchor, active, layers)  # type: ignore[assignment]
        first, *others = (out.view(*inputs.shape[:-1], -1) for out in outs)
        active.ready = {layer.number: (inputs, out) for layer, out in zip(layers[1:], others, strict=True)}
        return first


class Product(torch.autograd.Function):
    """x (T, in) -> for each of the layers x W^T + bias, plus each slot's scale * x A^T B on its own rows; gradients of A and B are added to
    the adapters'. The layers' A are one matrix: thin products read x once.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, anchor: torch.Tensor, active: Active, layers: list[PackedLoRALinear]
    ) -> tuple[torch.Tensor, ...]:
        outs = [torch.nn.functional.linear(rows, layer.matrix, layer.bias) for layer in layers]
        sizes = [segment.stop - segment.start for segment in active.segments]
        adapters = [active.adapters[segment.slot] for segment in active.segments]
        hidden = []
        for adapter, own, *totals in zip(adapters, rows.split(sizes), *(out.split(sizes) for out in outs), strict=True):
            _, a_t, _ = adapter.joint(layers[0].number, len(layers))
            low = torch.mm(own, a_t)
            for layer, total, part in zip(layers, totals, low.split(adapter.rank, 1), strict=True):
                total.addmm_(part, adapter.b[layer.number], alpha=adapter.scale)
            hidden.append(low)
        ctx.layers, ctx.sizes, ctx.adapters = layers, sizes, adapters
        ctx.save_for_backward(rows, *hidden)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        rows, *hidden = ctx.saved_tensors
        back = None
        for layer, gradient in zip(ctx.layers, gradients, strict=True) if ctx.needs_input_grad[0] else ():
            back = torch.mm(gradient, layer.matrix) if back is None else back.addmm_(gradient, layer.matrix)
        backs = [None] * len(hidden) if back is None else back.split(ctx.sizes)
        given = zip(*(gradient.split(ctx.sizes) for gradient in gradients), strict=True)
        for slot in zip(ctx.adapters, hidden, rows.split(ctx.sizes), given, backs, strict=True):
            add_gradients(ctx.layers, *slot)
        return back, None, None, None


def add_gradients(layers: Any, adapter: Adapter, low: torch.Tensor, own: torch.Tensor, given: Any, back: torch.Tensor | None) -> None:
    """One slot's part of the backward of layers that read the same rows: its gradients, and what its adapters add to the rows' gradient."""
    a, _, gradient_a = adapter.joint(layers[0].number, len(layers))
    inners = []
    for layer, gradient, part in zip(layers, given, low.split(adapter.rank, 1), strict=True):
        inners.append(torch.mm(gradient, adapter.b_t[layer.number]))
        add_product(adapter.gradient_b[layer.number], part.t(), gradient, adapter.scale)
    inner = (inners[0] if len(inners) == 1 else torch.cat(inners, 1)).mul_(adapter.scale)
    add_product(gradient_a, inner.t(), own, 1.0)
    if back is not None:
        back.addmm_(inner, a)


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    """total += scale * left @ right, in float32 whatever format the factors have."""
    if left.dtype == torch.float32:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(torch.mm(left, right), alpha=scale)


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
