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

    `query` [tokens * heads, head width]; only its device is looked at.
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

    All in the format of the products; T tokens, H query heads, Hkv key heads, D the width of a
    head.
    """
    fused = fuses(query, cap)
    queries = GatherBlocks.apply(query, maps, True)
    keys = GatherBlocks.apply(key, maps, False)
    values = GatherBlocks.apply(value, maps, False)
    outs = []
    for block_index, *tensors in zip(maps.blocks, queries, keys, values, strict=True):  # type: ignore[arg-type]
        kv, blocks, rows = block_index.shape[:3]
        mask = mask_of(maps, block_index, window, query)
        shape = (kv, blocks * rows) if fused else (kv * blocks * rows,)
        q, k, v = (tensor.view(*shape, -1, tensor.shape[-1]) for tensor in tensors)
        if fused:
            outs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, scale=scaling
                )
            )
        else:
            outs.append(
                MatmulAttention.apply(
                    q, k, v, mask, (scaling, cap), block_index, (key.detach(), value.detach())
                )
            )
    return ScatterBlocks.apply(maps, *outs)  # type: ignore[return-value]


class GatherBlocks(torch.autograd.Function):
    """Flat rows -> the rows of each rectangle, in the order of its products.

    In: queries [tokens * heads, head width], or keys or values [tokens * key heads, head width].
    Out, of each rectangle: queries [key heads * blocks * rows * length * queries per key head, head
    width], or keys or values [key heads * blocks * rows * (prefix + length), head width]. The
    format stays as it is.
    """

    @staticmethod
    def forward(
        ctx: Any, flat: torch.Tensor, maps: GatherIndices, queries: bool
    ) -> tuple[torch.Tensor, ...]:
        ctx.maps = maps
        ctx.queries = queries
        if not queries:
            return tuple(flat.index_select(0, block_index.key) for block_index in maps.blocks)
        wide = flat.view(len(maps.query_back), -1)
        return tuple(
            wide.index_select(0, block_index.query).view(-1, flat.shape[1])
            for block_index in maps.blocks
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps: GatherIndices = ctx.maps
        if ctx.queries:
            return scatter_queries(gradients, maps), None, None
        joined = scatter_rows(list(gradients), maps.key_back, maps.padded)
        for block_index, gradient in zip(maps.blocks, gradients, strict=True):
            if block_index.prefix is not None:
                shared = shared_sum(block_index, gradient)
                joined.index_copy_(
                    0, block_index.prefix, shared.add_(joined.index_select(0, block_index.prefix))
                )  # a row stands in it once
        return joined, None, None


def scatter_queries(block_outputs: tuple[torch.Tensor, ...], maps: GatherIndices) -> torch.Tensor:
    """What the rectangles have for their queries (..., D), brought back to the flat rows (T * H,
    D).

    In the format that they have.
    """
    wide = [
        block_output.reshape(len(block_index.query), -1)
        for block_index, block_output in zip(maps.blocks, block_outputs, strict=True)
    ]
    return scatter_rows(wide, maps.query_back, maps.padded).view(-1, block_outputs[0].shape[-1])


def shared_sum(block_index: GatherIndex, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of a rectangle's prefix keys (Hkv * B * P, D), summed over the rows that see
    them.

    In: [key heads * blocks * rows * (prefix + length), head width]. Out: [key heads * blocks *
    prefix, head width], in the same format.
    """
    kv, blocks, rows, _, length, prefix = block_index.shape
    return gradient.view(kv * blocks, rows, prefix + length, -1)[:, :, :prefix].sum(1).flatten(0, 1)


class ScatterBlocks(torch.autograd.Function):
    """The outputs of all rectangles -> flat rows (T * H, D).

    In, of each rectangle: [key heads * blocks * rows, length * queries per key head, head width].
    The format stays as it is.
    """

    @staticmethod
    def forward(ctx: Any, maps: GatherIndices, *outs: torch.Tensor) -> torch.Tensor:
        ctx.maps = maps
        ctx.shapes = [out.shape for out in outs]
        return scatter_queries(outs, maps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = gradients[0].reshape(len(ctx.maps.query_back), -1)
        return None, *(
            gradient_of(block_index, gradient).view(shape)
            for block_index, shape in zip(ctx.maps.blocks, ctx.shapes, strict=True)
        )
