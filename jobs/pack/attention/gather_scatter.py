"""Attention of a flat row, rectangle by rectangle: its rows are spread out, the keys of the common
beginning before those of every row, attended to, and what comes of it is brought back. The
gradients of a common beginning's keys are summed over the rows.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.pack.attention.gather_indices import (
    GatherIndex,
    GatherIndices,
    gradient_of,
    mask_of,
    scatter_rows,
)
from jobs.pack.attention.matmul_attention import MatmulAttention


def fuses(query: torch.Tensor, cap: float | None) -> bool:
    """Whether torch's fused kernels, which never write the scores down, do it: on a GPU memory is
    what attention waits for.

    Capped scores they do not know.
    """
    return query.device.type == "cuda" and cap is None


def spread_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    maps: GatherIndices,
    scaling: float,
    window: int | None,
    cap: float | None,
) -> torch.Tensor:
    """All rectangles of a layout: queries (T * H, D), keys and values (T * Hkv, D) -> (T * H,
    D).
    """
    fused = fuses(query, cap)
    queries = GatherBlocks.apply(query, maps, True)
    keys, values = GatherBlocks.apply(key, maps, False), GatherBlocks.apply(value, maps, False)
    outs = []
    for made, *tensors in zip(maps.each, queries, keys, values, strict=True):  # type: ignore[arg-type]
        kv, blocks, rows = made.shape[:3]
        mask = mask_of(maps, made, window, query)
        shape = (kv, blocks * rows) if fused else (kv * blocks * rows,)
        q, k, v = (each.view(*shape, -1, each.shape[-1]) for each in tensors)
        if fused:
            outs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, scale=scaling
                )
            )
        else:
            outs.append(
                MatmulAttention.apply(
                    q, k, v, mask, (scaling, cap), made, (key.detach(), value.detach())
                )
            )
    return ScatterBlocks.apply(maps, *outs)  # type: ignore[return-value]


class GatherBlocks(torch.autograd.Function):
    """Flat rows -> the rows of each rectangle, in the order of its products."""

    @staticmethod
    def forward(
        ctx: Any, flat: torch.Tensor, maps: GatherIndices, queries: bool
    ) -> tuple[torch.Tensor, ...]:
        ctx.maps, ctx.queries = maps, queries
        if not queries:
            return tuple(flat.index_select(0, made.key) for made in maps.each)
        wide = flat.view(len(maps.query_back), -1)
        return tuple(wide.index_select(0, made.query).view(-1, flat.shape[1]) for made in maps.each)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        maps: GatherIndices = ctx.maps
        if ctx.queries:
            return scatter_queries(gradients, maps), None, None
        joined = scatter_rows(list(gradients), maps.key_back, maps.padded)
        for made, gradient in zip(maps.each, gradients, strict=True):
            if made.prefix is not None:
                shared = shared_sum(made, gradient)
                joined.index_copy_(
                    0, made.prefix, shared.add_(joined.index_select(0, made.prefix))
                )  # a row stands in it once
        return joined, None, None


def scatter_queries(parts: tuple[torch.Tensor, ...], maps: GatherIndices) -> torch.Tensor:
    """What the rectangles have for their queries (..., D), brought back to the flat rows (T * H,
    D).
    """
    wide = [part.reshape(len(made.query), -1) for made, part in zip(maps.each, parts, strict=True)]
    return scatter_rows(wide, maps.query_back, maps.padded).view(-1, parts[0].shape[-1])


def shared_sum(made: GatherIndex, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of a rectangle's prefix keys (Hkv * B * P, D), summed over the rows that see
    them.
    """
    kv, blocks, rows, _, length, prefix = made.shape
    return gradient.view(kv * blocks, rows, prefix + length, -1)[:, :, :prefix].sum(1).flatten(0, 1)


class ScatterBlocks(torch.autograd.Function):
    """The outputs of all rectangles -> flat rows (T * H, D)."""

    @staticmethod
    def forward(ctx: Any, maps: GatherIndices, *outs: torch.Tensor) -> torch.Tensor:
        ctx.maps, ctx.shapes = maps, [out.shape for out in outs]
        return scatter_queries(outs, maps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        gradient = gradients[0].reshape(len(ctx.maps.query_back), -1)
        return None, *(
            gradient_of(made, gradient).view(shape)
            for made, shape in zip(ctx.maps.each, ctx.shapes, strict=True)
        )
