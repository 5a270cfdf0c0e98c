"""LoRA weights: a slot's own, in float32 without padding, and those of many slots side by side, as batched products read them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import _foreach_add_, _foreach_copy_, _foreach_mul, _foreach_mul_, _foreach_zero_  # pyright: ignore[reportPrivateImportUsage]

LEAST_FAMILY = 16
"""Ranks up to this go together: matrix units take nearly as long for a rank of 4 as for one of 16, and twice as long for one of 32."""


@dataclass(frozen=True)
class Shape:
    """A layer that carries an adapter."""

    name: str
    """Its dotted name in the model."""
    width_in: int
    width_out: int


Joints = list[list[int]]
"""All layers by number, in order; layers that read the same rows stand together."""


class Adapter:
    """One slot's weights: A (rank, in) and B (rank, out) of every layer, as views into one flat float32 tensor, and its gradient likewise.

    The update of a layer is scale * x A^T B. The A of all layers come first. `dtype` is the format that the products are computed in.
    """

    def __init__(self, shapes: list[Shape], rank: int, scale: float, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.rank, self.scale, self.dtype = shapes, rank, scale, dtype
        self.starts = list(itertools.accumulate((rank * shape.width_in for shape in shapes), initial=0))
        size = self.starts[-1] + sum(rank * shape.width_out for shape in shapes)
        self.weights = torch.nn.Parameter(torch.zeros(size, device=device), requires_grad=False)
        self.gradient = torch.zeros(size, device=device)

    @property
    def family(self) -> int:
        """Slots of one family share a stack, where ranks are padded to the largest: it is less than twice a slot's own, or small."""
        return max(LEAST_FAMILY, 1 << (self.rank - 1).bit_length())

    def a(self, flat: torch.Tensor, joints: Joints) -> list[torch.Tensor]:
        """A of each joint (layers, rank, in) within the weights or the gradient."""
        ends = [(self.starts[joint[0]], self.starts[joint[-1] + 1], len(joint)) for joint in joints]
        return [flat[start:end].view(count, self.rank, -1) for start, end, count in ends]

    def b(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """B of each layer (rank, out) within the weights or the gradient."""
        parts = flat[self.starts[-1] :].split([self.rank * shape.width_out for shape in self.shapes])
        return [part.view(self.rank, -1) for part in parts]

    def read(self, state: dict[str, torch.Tensor]) -> None:
        """Take the weights of an ordinary PEFT adapter, by its names."""
        for shape, a, b in self._layers():
            a.copy_(state[peft_name(shape.name, "A")])
            b.copy_(state[peft_name(shape.name, "B")].t())

    def written(self) -> dict[str, torch.Tensor]:
        """The weights as an ordinary PEFT adapter holds them."""
        state = {}
        for shape, a, b in self._layers():
            state[peft_name(shape.name, "A")] = a.clone().cpu()
            state[peft_name(shape.name, "B")] = b.t().contiguous().cpu()
        return state

    def _layers(self) -> Iterator[tuple[Shape, torch.Tensor, torch.Tensor]]:
        alone = [[number] for number in range(len(self.shapes))]
        a = [layer[0] for layer in self.a(self.weights.data, alone)]
        return zip(self.shapes, a, self.b(self.weights.data), strict=True)


class Stack:
    """The weights of several slots side by side: A (S, layers * R, in) of each joint and scale * B (S, R, out) of each layer in the format
    of the products, ranks padded with zeros to R, which stay zero; and the gradients that one pass gives likewise.

    A slot's weights are laid in before a step, its gradient is taken out after each pass; in between, all is as batched products want it.
    """

    def __init__(self, members: list[Adapter], joints: Joints) -> None:
        self.joints, self.num_rows, self.rank = joints, len(members), max(member.rank for member in members)
        shapes, like = members[0].shapes, members[0]
        sizes = [(len(joint) * self.rank, shapes[joint[0]].width_in) for joint in joints]
        sizes += [(self.rank, shape.width_out) for shape in shapes]
        total = self.num_rows * sum(height * width for height, width in sizes)

        def room() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
            flat = torch.zeros(total, dtype=like.dtype, device=like.weights.device)
            parts = flat.split([self.num_rows * height * width for height, width in sizes])
            matrices = [part.view(self.num_rows, *size) for part, size in zip(parts, sizes, strict=True)]
            return matrices[: len(joints)], matrices[len(joints) :]

        self.a, self.b = room()
        self.gradient_a, self.gradient_b = room()
        self.filled = [0] * self.num_rows
        """Up to which rank a row is in use."""

    def fits(self, members: list[Adapter], joints: Joints) -> bool:
        """Whether it was made for such slots."""
        return (self.num_rows, self.rank, self.joints) == (len(members), max(member.rank for member in members), joints)

    def take(self, row: int, adapter: Adapter) -> None:
        """Lay a slot's weights into a row."""
        if self.filled[row] > adapter.rank:
            _foreach_zero_([matrix[row] for matrix in self.a + self.b])
        self.filled[row] = adapter.rank
        a, b = self._own(self.a, self.b, row, adapter.rank)
        _foreach_copy_(a, adapter.a(adapter.weights.data, self.joints))
        _foreach_copy_(b, _foreach_mul(adapter.b(adapter.weights.data), adapter.scale))

    def give(self, row: int, adapter: Adapter, first: bool) -> None:
        """Hand a slot the gradient of a pass, the `first` of a step or one to be added."""
        a, b = self._own(self.gradient_a, self.gradient_b, row, adapter.rank)
        own_a, own_b = adapter.a(adapter.gradient, self.joints), adapter.b(adapter.gradient)
        if first:
            _foreach_copy_(own_a + own_b, a + b)
            _foreach_mul_(own_b, adapter.scale)
        else:
            _foreach_add_(own_a, a)
            _foreach_add_(own_b, b, alpha=adapter.scale)

    def _own(self, a: list[torch.Tensor], b: list[torch.Tensor], row: int, rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The part of a row that a slot of this rank uses: A of each joint (layers, rank, in) and B of each layer."""
        parts = [matrix[row].view(-1, self.rank, matrix.shape[2])[:, :rank] for matrix in a]
        return parts, [matrix[row, :rank] for matrix in b]


def peft_name(layer: str, which: str) -> str:
    """The name of a tensor in adapter_model.safetensors."""
    return f"base_model.model.{layer}.lora_{which}.weight"
