"""LoRA weights: a slot's own, in float32 without padding, and those of many slots side by side, as
batched products read them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

LEAST_FAMILY = 16
"""Ranks up to this go together: matrix units take nearly as long for a rank of 4 as for one of 16,
and twice as long for one of 32.
"""


@dataclass(frozen=True)
class Shape:
    """A layer that carries an adapter."""

    name: str
    """Its dotted name in the model."""
    width_in: int
    width_out: int


FusedLayers = list[list[int]]
"""All layers by number, in order; layers that read the same rows stand together."""


class Adapter:
    """One slot's weights: A (rank, in) and B (rank, out) of every layer, as views into one flat
    float32 tensor, and its gradient likewise.

    The update of a layer is scale * x A^T B. The A of all layers come first. `dtype` is the format
    that the products are computed in.
    """

    def __init__(
        self, shapes: list[Shape], rank: int, scale: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shapes = shapes
        self.rank = rank
        self.scale = scale
        self.dtype = dtype
        self.starts = list(
            itertools.accumulate((rank * shape.width_in for shape in shapes), initial=0)
        )
        size = self.starts[-1] + sum(rank * shape.width_out for shape in shapes)
        self.weights = torch.nn.Parameter(torch.zeros(size, device=device), requires_grad=False)
        self.gradient = torch.zeros(size, device=device)

    @property
    def family(self) -> int:
        """Slots of one family share a stack, where ranks are padded to the largest: it is less than
        twice a slot's own, or small.
        """
        return max(LEAST_FAMILY, 1 << (self.rank - 1).bit_length())

    def a(self, flat: torch.Tensor, joints: FusedLayers) -> list[torch.Tensor]:
        """A of each joint (layers, rank, in) within the weights or the gradient.

        `flat` is float32 [weights of all layers].
        """
        ends = [(self.starts[joint[0]], self.starts[joint[-1] + 1], len(joint)) for joint in joints]
        return [flat[start:end].view(count, self.rank, -1) for start, end, count in ends]

    def b(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """B of each layer (rank, out) within the weights or the gradient.

        `flat` is float32 [weights of all layers].
        """
        matrices = flat[self.starts[-1] :].split(
            [self.rank * shape.width_out for shape in self.shapes]
        )
        return [matrix.view(self.rank, -1) for matrix in matrices]

    def read(self, state: dict[str, torch.Tensor]) -> None:
        """Take the weights of an ordinary PEFT adapter, by its names.

        A is [rank, in] and B [out, rank], in any format; they are kept in float32.
        """
        for shape, a, b in self._layers():
            a.copy_(state[peft_name(shape.name, "A")])
            b.copy_(state[peft_name(shape.name, "B")].t())

    def written(self) -> dict[str, torch.Tensor]:
        """The weights as an ordinary PEFT adapter holds them.

        float32 on the CPU: A [rank, in] and B [out, rank].
        """
        state = {}
        for shape, a, b in self._layers():
            state[peft_name(shape.name, "A")] = a.clone().cpu()
            state[peft_name(shape.name, "B")] = b.t().contiguous().cpu()
        return state

    def _layers(self) -> Iterator[tuple[Shape, torch.Tensor, torch.Tensor]]:
        single_layers = [[index] for index in range(len(self.shapes))]
        a = [layer[0] for layer in self.a(self.weights.data, single_layers)]
        return zip(self.shapes, a, self.b(self.weights.data), strict=True)


class StackedAdapters:
    """The weights of several slots side by side: A (S, layers * R, in) of each joint and scale * B
    (S, R, out) of each layer in the format of the products, ranks padded with zeros to R, which
    stay zero; and the gradients that one pass gives likewise.

    A slot's weights are laid in before a step, its gradient is taken out after each pass: few large
    copies, for a GPU as for a CPU.
    """

    def __init__(self, members: list[Adapter], joints: FusedLayers) -> None:
        self.joints = joints
        self.num_rows = len(members)
        self.rank = max(member.rank for member in members)
        shapes = members[0].shapes
        like = members[0]
        sizes = [(len(joint) * self.rank, shapes[joint[0]].width_in) for joint in joints]
        sizes += [(self.rank, shape.width_out) for shape in shapes]
        self.weights, self.gradient = (
            torch.zeros(
                self.num_rows,
                sum(height * width for height, width in sizes),
                dtype=like.dtype,
                device=like.weights.device,
            )
            for _ in range(2)
        )

        def matrices(rows: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
            flat_matrices = rows.split([height * width for height, width in sizes], 1)
            views = [
                flat.view(self.num_rows, *size)
                for flat, size in zip(flat_matrices, sizes, strict=True)
            ]
            return views[: len(joints)], views[len(joints) :]

        self.a, self.b = matrices(self.weights)
        self.gradient_a, self.gradient_b = matrices(self.gradient)
        self.filled = [0] * self.num_rows
        """Up to which rank a row is in use."""
        self.position_cache: dict[int, torch.Tensor] = {}

    def fits(self, members: list[Adapter], joints: FusedLayers) -> bool:
        """Whether it was made for such slots."""
        return (self.num_rows, self.rank, self.joints) == (
            len(members),
            max(member.rank for member in members),
            joints,
        )

    def take(self, row: int, adapter: Adapter) -> None:
        """Lay a slot's weights into a row."""
        weights, row_weights, start = adapter.weights.data, self.weights[row], adapter.starts[-1]
        scaled = weights[start:] * adapter.scale
        if adapter.rank == self.rank:
            row_weights[:start].copy_(weights[:start])
            row_weights[start:].copy_(scaled)
        else:
            if self.filled[row] > adapter.rank:
                row_weights.zero_()
            row_weights.index_copy_(
                0,
                self.positions_of(adapter),
                torch.cat([weights[:start], scaled]).to(row_weights.dtype),
            )
        self.filled[row] = adapter.rank

    def give(self, row: int, adapter: Adapter, first: bool) -> None:
        """Hand a slot the gradient of a pass, the `first` of a step or one to be added."""
        start = adapter.starts[-1]
        total = adapter.gradient
        row_gradient = (
            self.gradient[row]
            if adapter.rank == self.rank
            else self.gradient[row].index_select(0, self.positions_of(adapter))
        )
        if first:
            total.copy_(row_gradient)
            total[start:] *= adapter.scale
        else:
            total[:start] += row_gradient[:start]
            total[start:].add_(row_gradient[start:], alpha=adapter.scale)

    def positions_of(self, adapter: Adapter) -> torch.Tensor:
        """int64: where in a row the weights of a slot of a smaller rank stand, in their order.

        [weights of the slot].
        """
        if adapter.rank not in self.position_cache:
            widths = [shape.width_in for shape in adapter.shapes] + [
                shape.width_out for shape in adapter.shapes
            ]
            starts = itertools.accumulate((self.rank * width for width in widths), initial=0)
            indices = [
                torch.arange(start, start + adapter.rank * width)
                for start, width in zip(starts, widths, strict=False)
            ]
            self.position_cache[adapter.rank] = torch.cat(indices).to(self.weights.device)
        return self.position_cache[adapter.rank]


def peft_name(layer: str, which: str) -> str:
    """The name of a tensor in adapter_model.safetensors."""
    return f"base_model.model.{layer}.lora_{which}.weight"
