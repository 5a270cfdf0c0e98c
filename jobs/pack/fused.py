"""Attention of a flat row through torch's fused kernels, which never write the scores down: on a GPU memory is what attention waits for.

The keys of a common beginning are laid before those of every row; their gradients are summed over the rows.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.pack.maps import Map, Maps, gradient_of, masks, whole

ALIGNED = 8
"""The kernels want the rows of a mask to begin at multiples of so many entries."""


def fuses(query: torch.Tensor, cap: float | None) -> bool:
    """Whether an attention runs here. Capped scores the kernels do not know."""
    return query.device.type == "cuda" and cap is None


def fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, maps: Maps, scaling: float, window: int | None
) -> torch.Tensor:
    """All rectangles of a layout: queries (T * H, D), keys and values (T * Hkv, D) -> (T * H, D). The maps are joined ones."""
    queries = Spread.apply(query, maps, True)
    keys, values = Spread.apply(key, maps, False), Spread.apply(value, maps, False)
    outs = []
    for made, q, k, v in zip(maps.each, queries, keys, values, strict=True):  # type: ignore[arg-type]
        kv, blocks, rows = made.shape[:3]
        shaped = (each.view(kv, blocks * rows, -1, each.shape[-1]) for each in (q, k, v))
        mask = mask_of(maps, made, window, q)
        outs.append(torch.nn.functional.scaled_dot_product_attention(*shaped, attn_mask=mask, scale=scaling))
    return Join.apply(maps, *outs)  # type: ignore[return-value]


def mask_of(maps: Maps, made: Map, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of a rectangle (G * L, P + L)."""
    kind = made.shape[3:], window, like.dtype
    if kind not in maps.known_masks:
        own, far = masks(made.shape, window, like)
        size = made.shape[5] + made.shape[4]
        room = own.new_zeros(len(own), -(-size // ALIGNED) * ALIGNED)
        room[:, made.shape[5] : size] = own
        if far is not None:
            room[:, : made.shape[5]] = far
        maps.known_masks[kind] = room[:, :size]
    return maps.known_masks[kind]


class Spread(torch.autograd.Function):
    """Flat rows -> the rows of each rectangle, in the order of its products."""

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, maps: Maps, queries: bool) -> tuple[torch.Tensor, ...]:
        ctx.maps, ctx.queries = maps, queries
        return tuple(flat.index_select(0, made.query if queries else made.key) for made in maps.each)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        maps: Maps = ctx.maps
        if ctx.queries:
            return whole(list(gradients), maps.query_back, maps.padded), None, None
        joined = whole(list(gradients), maps.key_back, maps.padded)
        for made, gradient in zip(maps.each, gradients, strict=True):
            if made.prefix is not None:
                kv, blocks, rows, _, length, prefix = made.shape
                shared = gradient.view(kv * blocks, rows, prefix + length, -1)[:, :, :prefix].sum(1)
                joined.index_add_(0, made.prefix, shared.flatten(0, 1))
        return joined, None, None


class Join(torch.autograd.Function):
    """The outputs of all rectangles -> flat rows (T * H, D)."""

    @staticmethod
    def forward(ctx: Any, maps: Maps, *outs: torch.Tensor) -> torch.Tensor:
        ctx.maps, ctx.shapes = maps, [out.shape for out in outs]
        return whole([out.reshape(-1, out.shape[-1]) for out in outs], maps.query_back, maps.padded)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        gradient = gradients[0].contiguous()
        return None, *(gradient_of(made, gradient).view(shape) for made, shape in zip(ctx.maps.each, ctx.shapes, strict=True))
