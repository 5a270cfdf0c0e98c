"""LoRA weights: a slot's own, in float32 without padding, and those of many slots side by side, as batched products read them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

LEAST_FAMILY = 32
"""Ranks up to this go together: matrix units take as long for a rank of 4 as for one of 32."""


@dataclass(frozen=True)
class Shape:
    """A layer that carries an adapter."""

    name: str
    """Its dotted name in the model."""
    width_in: int
    width_out: int


class Adapter:
    """One slot's weights: A (rank, in) and B (rank, out) of every layer, as views into one flat float32 tensor, and its gradient likewise.

    The update of a layer is scale * x A^T B. The A of all layers come first. `dtype` is the format that the products are computed in.
    """

    def __init__(self, shapes: list[Shape], rank: int, scale: float, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.rank, self.scale, self.dtype = shapes, rank, scale, dtype
        size = sum(rank * (shape.width_in + shape.width_out) for shape in shapes)
        self.weights = torch.nn.Parameter(torch.zeros(size, device=device), requires_grad=False)
        self.gradient = torch.zeros(size, device=device)
        self.a, self.b = views(self.weights.data.view(1, -1), shapes, rank)
        self.gradient_a, self.gradient_b = views(self.gradient.view(1, -1), shapes, rank)

    @property
    def family(self) -> int:
        """Slots of one family share a stack, where ranks are padded to the largest: it is less than twice a slot's own, or small."""
        return max(LEAST_FAMILY, 1 << (self.rank - 1).bit_length())

    def read(self, state: dict[str, torch.Tensor]) -> None:
        """Take the weights of an ordinary PEFT adapter, by its names."""
        for shape, a, b in zip(self.shapes, self.a, self.b, strict=True):
            a[0].copy_(state[peft_name(shape.name, "A")])
            b[0].copy_(state[peft_name(shape.name, "B")].t())

    def written(self) -> dict[str, torch.Tensor]:
        """The weights as an ordinary PEFT adapter holds them."""
        state = {}
        for shape, a, b in zip(self.shapes, self.a, self.b, strict=True):
            state[peft_name(shape.name, "A")] = a[0].clone().cpu()
            state[peft_name(shape.name, "B")] = b[0].t().contiguous().cpu()
        return state


class Stack:
    """The weights of several slots side by side: A (S, R, in) and scale * B (S, R, out) of every layer in the format of the products, ranks
    padded with zeros to R, which stay zero; and in float32 their gradients as they gather.

    A slot's weights are laid in before a step and its gradient is taken out after it; in between all are what batched products need.
    """

    def __init__(self, shapes: list[Shape], num_rows: int, rank: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.num_rows, self.rank = shapes, num_rows, rank
        self.starts = [rank * start for start in itertools.accumulate((shape.width_in for shape in shapes), initial=0)]
        size = self.starts[-1] + sum(rank * shape.width_out for shape in shapes)
        self.weights = torch.zeros(num_rows, size, dtype=dtype, device=device)
        self.gradient = torch.zeros(num_rows, size, device=device)
        self.a, self.b = views(self.weights, shapes, rank)
        self.gradient_a, self.gradient_b = views(self.gradient, shapes, rank)
        self.filled = [0] * num_rows
        """Up to which rank a row is in use."""

    def joint(self, first: int, count: int) -> torch.Tensor:
        """A of layers in a row as one, (S, count * R, in)."""
        return self._joint(self.weights, first, count)

    def gradient_joint(self, first: int, count: int) -> torch.Tensor:
        """The gradient of the same."""
        return self._joint(self.gradient, first, count)

    def _joint(self, flat: torch.Tensor, first: int, count: int) -> torch.Tensor:
        return flat[:, self.starts[first] : self.starts[first + count]].view(self.num_rows, count * self.rank, -1)

    def take(self, row: int, adapter: Adapter) -> None:
        """Lay a slot's weights into a row; its gradient starts at zero."""
        self.gradient[row].zero_()
        if self.filled[row] > adapter.rank:
            self.weights[row].zero_()
        self.filled[row] = adapter.rank
        a, b = self._row(self.a, row, adapter.rank), self._row(self.b, row, adapter.rank)
        torch._foreach_copy_(a, [own[0] for own in adapter.a])
        torch._foreach_copy_(b, torch._foreach_mul([own[0] for own in adapter.b], adapter.scale))

    def give(self, row: int, adapter: Adapter) -> None:
        """Hand a slot the gradient that has gathered in its row."""
        torch._foreach_copy_([own[0] for own in adapter.gradient_a], self._row(self.gradient_a, row, adapter.rank))
        b = [own[0] for own in adapter.gradient_b]
        torch._foreach_copy_(b, self._row(self.gradient_b, row, adapter.rank))
        torch._foreach_mul_(b, adapter.scale)

    def _row(self, matrices: list[torch.Tensor], row: int, rank: int) -> list[torch.Tensor]:
        return [matrix[row, :rank] for matrix in matrices]


def views(flat: torch.Tensor, shapes: list[Shape], rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A (S, rank, in) and B (S, rank, out) of every layer within (S, all of them)."""
    widths = [shape.width_in for shape in shapes] + [shape.width_out for shape in shapes]
    parts = [part.view(len(flat), rank, -1) for part in flat.split([rank * width for width in widths], 1)]
    return parts[: len(shapes)], parts[len(shapes) :]


def peft_name(layer: str, which: str) -> str:
    """The name of a tensor in adapter_model.safetensors."""
    return f"base_model.model.{layer}.lora_{which}.weight"
