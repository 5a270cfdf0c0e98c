"""Attention of equally shaped rows as explicit matrix products: at the lengths of a task's examples
they beat the fused kernels of a CPU, whose backward is poor there. Also what runs wherever scores
are capped.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.pack.attention.gather_indices import GatherIndex

KEPT_ELEMENTS = 1 << 22
"""Attention probabilities of larger rectangles are computed again in the backward pass instead of
being kept.
"""


def probabilities(
    q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor, scaling: float, cap: float | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax of the scores (M, Q, K); and the capped scores over the cap, where one is set, for
    the backward.

    `q` [matrices, queries, head width], `k` [matrices, keys, head width], `mask` [queries, keys],
    all in the format of the products, which both results have.
    """
    if cap is None:
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)
        capped = None
    else:
        capped = torch.tanh(torch.bmm(q, k.transpose(1, 2)).mul_(scaling / cap))
        scores = (capped * cap).add_(mask)
    if scores.numel() > KEPT_ELEMENTS:
        return torch.softmax(scores, -1), capped
    return torch.softmax(scores, -1, dtype=torch.float32).to(
        scores.dtype
    ), capped  # in bfloat16 the kernel is slow at odd widths


class MatmulAttention(torch.autograd.Function):
    """Queries (M, Q, D), keys and values (M, K, D), mask (Q, K) added to the scores -> (M, Q, D).

    `flat` is what keys and values were taken from: kept in their place, it holds a common
    beginning once and not for every row.

    M matrices (key heads * blocks * rows), Q queries, K keys, D the width of a head, all in the
    format of the products. `rule` is the scaling and the cap of the scores, None without a cap.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor,
        rule: tuple[float, float | None],
        block_index: GatherIndex,
        flat: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        scaling, cap = rule
        weights, _ = probabilities(q, k, mask, scaling, cap)
        small = cap is None and weights.numel() <= KEPT_ELEMENTS
        ctx.rule = rule
        ctx.block_index = block_index
        ctx.shape = k.shape
        ctx.save_for_backward(q, *flat, mask, weights if small else None)
        return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, keys, values, mask, weights = ctx.saved_tensors
        k, v = (
            flat.index_select(0, ctx.block_index.key).view(ctx.shape) for flat in (keys, values)
        )
        scaling, cap = ctx.rule
        capped = None
        if weights is None:
            weights, capped = probabilities(q, k, mask, scaling, cap)
        out = gradients[0]
        scores = torch.ops.aten._softmax_backward_data(
            torch.bmm(out, v.transpose(1, 2)), weights, -1, weights.dtype
        )
        if capped is not None:
            scores = scores * (1 - capped * capped)
        dv = torch.bmm(weights.transpose(1, 2), out)
        dq = torch.bmm(scores, k)
        dk = torch.bmm(scores.transpose(1, 2), q)
        return dq.mul_(scaling), dk.mul_(scaling), dv, None, None, None, None
