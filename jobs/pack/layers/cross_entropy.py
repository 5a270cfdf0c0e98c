"""The end of the model: logits at supervised tokens only, their cross-entropy and its gradient, in
chunks.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits that are in float32 at once: 4 MB, which stay in a CPU's caches, and what a GPU can
spare.
"""


class CrossEntropy(torch.autograd.Function):
    """Logits (S, V), targets (S,), weights (S,) -> the weighted sum of the losses, and each token's
    loss in nats, float32 (S,).

    The gradient is computed on the way: the logits are read once. A token that is not finite spoils
    its own row only.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = torch.empty(len(targets), device=logits.device)
        gradient = torch.empty_like(logits) if logits.requires_grad else None
        for rows in chunks(logits):
            logs = torch.log_softmax(logits[rows], 1, dtype=torch.float32)
            chosen = targets[rows].unsqueeze(1)
            losses[rows] = -logs.gather(1, chosen).squeeze(1)
            if gradient is not None:
                share = logs.exp_()
                share.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=torch.float32))
                gradient[rows] = share.mul_(weights[rows].unsqueeze(1))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0]), None, None


def chunks(logits: torch.Tensor) -> list[slice]:
    """Stretches of rows of at most CHUNK_ELEMENTS logits.

    `logits` [supervised tokens, vocabulary].
    """
    size = max(1, CHUNK_ELEMENTS.get(logits.device.type, 1 << 20) // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def is_argmax(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Which targets are the most likely token; bool (S,)."""
    return logits.argmax(1) == targets
