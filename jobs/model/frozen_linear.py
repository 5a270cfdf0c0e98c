"""Products with weights that nothing trains, on a CPU: laid out once as its matrix kernels read
them, instead of at every call.

That saves a tenth to a fifth of each product. The layout is oneDNN's, by the operators that torch's
own compiler uses for such weights; where there are none, it is torch.nn.functional.linear as ever.
"""

from __future__ import annotations

import platform
from typing import Any, cast

import torch

from jobs.machine.memory import available_bytes

FORMATS = (torch.bfloat16, torch.float32)
"""Number formats whose kernels gain by it."""
MOST_OF_MEMORY = 0.25
"""The copies may take so much of what memory is available; each is as large as its weight."""
MARK = "laid_out"
"""Under this name a layer of a model keeps its Frozen while that has copies."""
NUM_ROWS = 1024
"""Rows that the layout is made for; with others it costs no more."""


class PrepackedLinear:
    """The weight (out, in) of a linear layer that nothing trains, and its bias. Copies are made
    when they are first needed.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        self.layer = layer
        self.flipped = (
            type(layer).__name__ == "Conv1D"
        )  # GPT-2's layers keep their weight as (in, out)
        self.fast = False
        self.ahead: torch.Tensor | None = None
        """A copy for `forth`."""
        self.behind: torch.Tensor | None = None
        """A copy for `back`."""

    @property
    def matrix(self) -> torch.Tensor:
        """(out, in)."""
        return self.layer.weight.t() if self.flipped else self.layer.weight

    def forth(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (..., in) -> (..., out), without a gradient."""
        if not self.fast:
            return torch.nn.functional.linear(rows, self.matrix, self.layer.bias)
        if self.ahead is None:
            self.ahead = laid_out(self.matrix)
        return torch.ops.mkldnn._linear_pointwise(rows, self.ahead, self.layer.bias, "none", [], "")

    def back(self, gradient: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """The gradient (N, in) of the rows for that of their products (N, out), added to another
        one if there is one.
        """
        if not self.fast:
            return (
                torch.mm(gradient, self.matrix)
                if onto is None
                else onto.addmm_(gradient, self.matrix)
            )
        if self.behind is None:
            self.behind = laid_out(self.matrix.t())
        if onto is None:
            return torch.ops.mkldnn._linear_pointwise(gradient, self.behind, None, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(gradient, onto, self.behind, None, "add")


class Times(torch.autograd.Function):
    """x (..., in) -> x W^T + bias, with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: PrepackedLinear) -> torch.Tensor:
        ctx.weight = weight
        return weight.forth(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = gradients[0]
        back = ctx.weight.back(gradient.reshape(-1, gradient.shape[-1]))
        return back.view(*gradient.shape[:-1], -1), None


def times(rows: torch.Tensor, weight: PrepackedLinear) -> torch.Tensor:
    """Rows (..., in) -> (..., out), with a gradient for the rows."""
    return Times.apply(rows, weight)  # type: ignore[return-value]


def laid_out(matrix: torch.Tensor) -> torch.Tensor:
    """A copy of (out, in) as the kernels read it."""
    return torch.ops.mkldnn._reorder_linear_weight(matrix.detach().contiguous(), NUM_ROWS)


def prepack_weights(model: torch.nn.Module, weights: list[PrepackedLinear]) -> bool:
    """Let the linear layers of a model that nothing trains compute so, if that helps and memory
    allows; whether they do.

    `known` are those layers that ask a Frozen of theirs already. The weights must stay as they
    are from now on.
    """
    prepacked_ids = {id(weight.layer) for weight in weights}
    plain = [
        cast("torch.nn.Linear", layer)
        for layer in model.modules()
        if type(layer).forward is torch.nn.Linear.forward and id(layer) not in prepacked_ids
    ]
    weights = weights + [PrepackedLinear(layer) for layer in plain]
    weights = [
        weight
        for weight in weights
        if not weight.layer.weight.requires_grad and has_kernels(weight.layer.weight)
    ]
    if 2 * sum(weight.matrix.nbytes for weight in weights) > MOST_OF_MEMORY * available_bytes():
        return False
    for weight in weights:
        weight.fast = True
        setattr(weight.layer, MARK, weight)
        if id(weight.layer) not in prepacked_ids:
            weight.layer.forward = lambda input, weight=weight: times(input, weight)
    return bool(weights)


def drop_prepacked(model: torch.nn.Module) -> bool:
    """Memory has run out: give back what the copies take, and compute as ever from now on; whether
    there were any.
    """
    weights = [vars(layer).pop(MARK) for layer in model.modules() if MARK in vars(layer)]
    for weight in weights:
        weight.fast = False
        weight.ahead = None
        weight.behind = None
    return bool(weights)


def has_kernels(weight: torch.Tensor) -> bool:
    """Whether this machine has such kernels for a weight."""
    if (
        weight.device.type != "cpu"
        or weight.dtype not in FORMATS
        or platform.machine() not in ("x86_64", "AMD64")
    ):
        return False
    operators: Any = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(operators, "_linear_pointwise"):
        return False
    return weight.dtype != torch.bfloat16 or operators._is_mkldnn_bf16_supported()
