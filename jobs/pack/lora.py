"""Linear layers that serve many LoRA adapters at once (Hu et al., 2021): one product with the frozen weight for all tokens, and per slot
the low-rank update of its own stretch of the flat row.

Adapters are never concatenated and masked: 0 x NaN is NaN, so one diverged slot would poison the others.
"""

from __future__ import annotations

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

    The update of a layer is scale * x A^T B. `a` and `b` hold the weights in the number format that the products are computed in.
    """

    def __init__(self, shapes: list[Shape], rank: int, scale: float, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.rank, self.scale = shapes, rank, scale
        size = sum(rank * (shape.width_in + shape.width_out) for shape in shapes)
        self.weights = torch.nn.Parameter(torch.zeros(size, device=device), requires_grad=False)
        self.gradient = torch.zeros(size, device=device)
        self.working = self.weights.data if dtype == torch.float32 else torch.zeros(size, dtype=dtype, device=device)
        self.master_a, self.master_b = self._views(self.weights.data)
        self.gradient_a, self.gradient_b = self._views(self.gradient)
        self.a, self.b = self._views(self.working)
        self.a_t, self.b_t = [view.t() for view in self.a], [view.t() for view in self.b]

    def _views(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A and B of every layer within a flat tensor."""
        a, b, at = [], [], 0
        for shape in self.shapes:
            for views, width in ((a, shape.width_in), (b, shape.width_out)):
                views.append(flat[at : at + self.rank * width].view(self.rank, width))
                at += self.rank * width
        return a, b

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
        self.anchor = torch.zeros((), requires_grad=True)
        """Ties every layer to the graph: adapters collect their gradients themselves."""


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
    def bias(self) -> Any:
        """The frozen bias or None."""
        return self.base.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., T, in) -> (..., T, out) for the T tokens of the flat row."""
        weight = self.weight.t() if self.flipped else self.weight
        if not self.active.segments:
            return torch.nn.functional.linear(inputs, weight, self.bias)
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) != self.active.segments[-1].stop:
            raise ValueError("a layer with an adapter sees other tokens than the row's")
        out: torch.Tensor = Product.apply(rows, self.active.anchor, weight, self.bias, self.number, self.active)  # type: ignore[assignment]
        return out.view(*inputs.shape[:-1], -1)


class Product(torch.autograd.Function):
    """x (T, in) -> x W^T + bias, plus each slot's scale * x A^T B on its own rows; gradients of A and B are added to the adapters'."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, anchor: torch.Tensor, weight: torch.Tensor, bias: Any, number: int, active: Active
    ) -> torch.Tensor:
        out = torch.nn.functional.linear(rows, weight, bias)
        sizes = [segment.stop - segment.start for segment in active.segments]
        adapters = [active.adapters[segment.slot] for segment in active.segments]
        hidden = []
        for adapter, own, total in zip(adapters, rows.split(sizes), out.split(sizes), strict=True):
            low = torch.mm(own, adapter.a_t[number])
            total.addmm_(low, adapter.b[number], alpha=adapter.scale)
            hidden.append(low)
        ctx.number, ctx.sizes, ctx.adapters = number, sizes, adapters
        ctx.save_for_backward(rows, weight, *hidden)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        rows, weight, *hidden = ctx.saved_tensors
        gradient, number = gradients[0], ctx.number
        back = torch.mm(gradient, weight) if ctx.needs_input_grad[0] else None
        backs = [None] * len(hidden) if back is None else back.split(ctx.sizes)
        pieces = zip(ctx.adapters, hidden, rows.split(ctx.sizes), gradient.split(ctx.sizes), backs, strict=True)
        for adapter, low, own, given, total in pieces:
            inner = torch.mm(given, adapter.b_t[number]).mul_(adapter.scale)
            add_product(adapter.gradient_b[number], low.t(), given, adapter.scale)
            add_product(adapter.gradient_a[number], inner.t(), own, 1.0)
            if total is not None:
                total.addmm_(inner, adapter.a[number])
        return back, None, None, None, None, None


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
        setattr(model.get_submodule(parent), last, PackedLoRALinear(layer, number, active))
        out, width = reversed(layer.weight.shape) if kind == "Conv1D" else layer.weight.shape  # type: ignore[union-attr]
        shapes.append(Shape(name, int(width), int(out)))
    return shapes
