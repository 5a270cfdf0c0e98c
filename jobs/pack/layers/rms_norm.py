"""RMSNorm (Zhang and Sennrich, 2019) with fewer passes over memory: on a CPU the step's largest
cost that is no matrix product.

Takes the place of a model's own module only where it gives the same numbers, tried on random rows.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.foreign_code import FOREIGN_CODE_ERRORS


class FastNorm(torch.nn.Module):
    """x / rms(x) * weight over the last dimension, the statistics in float32. The weight is
    frozen.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.eps = eps

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., H)."""
        if inputs.device.type != "cpu":
            return torch.nn.functional.rms_norm(inputs, inputs.shape[-1:], self.weight, self.eps)  # type: ignore[arg-type]
        rows = inputs.reshape(-1, inputs.shape[-1])
        return Norm.apply(rows, self.weight, self.eps).view(inputs.shape)  # type: ignore[union-attr]


class Norm(torch.autograd.Function):
    """Rows (N, H) and weight (H,) -> (N, H), through the kernels of other norms, which read each
    number once.

    Forward is batch norm with the rows as channels, of mean 0 and variance mean(x^2). Backward is
    layer norm's with mean 0, to which the part is given back that stands for the mean there.

    The rows keep their format; the statistics are float32.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        square = (
            torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).square_().div_(rows.shape[1])
        )
        zeros = torch.zeros_like(square)
        out = torch.nn.functional.batch_norm(rows.unsqueeze(0), zeros, square, eps=eps)[0].mul_(
            weight
        )
        ctx.save_for_backward(
            rows, weight, zeros.unsqueeze(1), square.add_(eps).rsqrt_().unsqueeze(1)
        )
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, zeros, inverse = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        weight_float32 = (
            weight.float()
        )  # with a weight in the rows' own format the kernel would want `inverse` in it too
        row_gradient = torch.ops.aten.native_layer_norm_backward(
            gradient,
            rows,
            rows.shape[1:],
            zeros,
            inverse,
            weight_float32,
            None,
            [True, False, False],
        )[0]
        mean = torch.mv(gradient, weight).float().div_(rows.shape[1]).unsqueeze(1)
        return row_gradient.add_(mean.mul_(inverse).to(row_gradient.dtype)), None, None


def replace_norms(model: torch.nn.Module) -> int:
    """Put a FastNorm in the place of every RMSNorm that computes the same; returns how many there
    were.
    """
    replaced = 0
    for name, module in list(model.named_modules()):
        fast = equivalent(module) if "RMSNorm" in type(module).__name__ else None
        if fast is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, fast)
            replaced += 1
    return replaced


@torch.no_grad()
def equivalent(module: torch.nn.Module) -> FastNorm | None:
    """A FastNorm with the same result as `module`, or None. Some models keep the weight less
    one.
    """
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if (
        not isinstance(weight, torch.Tensor)
        or weight.dim() != 1
        or not isinstance(eps, float)
        or list(module.children())
    ):
        return None
    generator = torch.Generator().manual_seed(0)
    rows = (
        torch.randn(4, len(weight), generator=generator)
        * torch.tensor([[1e-3], [1.0], [30.0], [1.0]])
    ).to(weight)
    try:
        expected = module(rows)
    except FOREIGN_CODE_ERRORS:
        return None
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    for candidate in (weight.detach(), (1.0 + weight.detach().float()).to(weight.dtype)):
        fast = FastNorm(candidate, eps)
        if expected.shape == rows.shape and torch.allclose(
            fast(rows).float(), expected.float(), rtol=tolerance, atol=tolerance
        ):
            return fast
    return None
