"""Which rows of the flat tensors the rectangles of an attention take, in the order of its products,
and what its tokens may not see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from jobs.pack.batch.packed_batch import AttentionBlock, PackedBatch


@dataclass
class GatherIndex:
    """Which rows of the flattened queries (T * Hkv, G * D) and keys (T * Hkv, D) a rectangle takes,
    in the order of its products.
    """

    query: torch.Tensor
    """int64 (Hkv * B * N * L,)."""
    key: torch.Tensor
    """int64 (Hkv * B * N * (P + L),): the keys of the prefix before those of each row."""
    prefix: torch.Tensor | None
    """int64 (Hkv * B * P,)."""
    padded: torch.Tensor | None
    """Which of the query's entries stand behind the end of their row: int64 indices, None for none,
    or bool for every entry.
    """
    shape: tuple[int, int, int, int, int, int]
    """Hkv, B, N, G, L, P."""


@dataclass
class GatherIndices:
    """The maps of all rectangles, and the way back: for each row of the flat tensors, its entry
    among the rectangles' outputs in turn.
    """

    each: list[GatherIndex]
    query_back: torch.Tensor
    key_back: torch.Tensor
    padded: bool
    """Whether some rows stand in no rectangle."""
    known_masks: dict[Any, torch.Tensor] = field(default_factory=dict)
    """What is added to scores, by shape, window and format."""


def maps_of(layout: PackedBatch, heads: int, kv_heads: int) -> GatherIndices:
    """The index tensors of a layout for one shape of attention; made once, used by every layer of
    that shape.
    """
    kind = heads, kv_heads
    if kind not in layout.known_maps:
        layout.known_maps[kind] = make_maps(layout, *kind)
    return layout.known_maps[kind]


def make_maps(layout: PackedBatch, heads: int, kv_heads: int) -> GatherIndices:
    """The maps of all rectangles, and the way back to the flat rows; padding stands in none and
    points behind them all.

    With a room nothing here waits for a number from the GPU.
    """
    num_tokens, device = layout.ids.shape[1], layout.ids.device
    query_back, key_back = (
        torch.zeros(num_tokens + 1, kv_heads, dtype=torch.long, device=device) for _ in range(2)
    )
    each, num_queries, num_keys = [], 0, 0
    for rectangle in layout.rectangles:
        made = make_map(rectangle, heads, kv_heads, layout.room is not None)
        query, key = entries(made.shape, device)
        tokens = rectangle.rows.masked_fill(~inside(rectangle), num_tokens).flatten()
        query_back[tokens] = query + num_queries
        key_back[tokens] = key + num_keys
        each.append(made)
        num_queries, num_keys = num_queries + len(made.query), num_keys + len(made.key)
    padded = layout.num_padded > 0 or layout.room is not None
    if padded:
        nowhere = torch.ones(num_tokens + 1, 1, dtype=torch.bool, device=device)
        for rectangle in layout.rectangles:
            nowhere.index_fill_(0, rectangle.rows.flatten(), False)
        query_back.masked_fill_(nowhere, num_queries)
        key_back.masked_fill_(nowhere, num_keys)
    return GatherIndices(each, query_back[:-1].flatten(), key_back[:-1].flatten(), padded)


def inside(rectangle: AttentionBlock) -> torch.Tensor:
    """Which places of a rectangle hold a token of its row; bool (B, N, L)."""
    return (
        torch.arange(rectangle.rows.shape[2], device=rectangle.rows.device)
        < rectangle.lengths[..., None]
    )


def entries(shape: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the queries and the own keys of a rectangle's tokens stand in its products, each (B * N
    * L, Hkv).
    """
    kv, blocks, rows, _, length, prefix = shape
    row, token = (
        torch.arange(blocks * rows, device=device).view(-1, 1, 1),
        torch.arange(length, device=device).view(-1, 1),
    )
    row = torch.arange(kv, device=device) * blocks * rows + row
    return (row * length + token).view(-1, kv), (row * (prefix + length) + prefix + token).view(
        -1, kv
    )


def scatter_rows(parts: list[torch.Tensor], way: torch.Tensor, padded: bool) -> torch.Tensor:
    """What the rectangles give, brought back to the flat rows; zeros for padding, which no other
    slot's numbers can reach.
    """
    parts = [*parts, parts[0].new_zeros(1, parts[0].shape[1])] if padded else parts
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).index_select(0, way)


def make_map(rectangle: AttentionBlock, heads: int, kv_heads: int, fixed: bool) -> GatherIndex:
    """The map of one rectangle. `fixed`: no shape depends on how much of it is real."""
    (blocks, rows, length), device = rectangle.rows.shape, rectangle.rows.device
    kv = torch.arange(kv_heads, device=device)
    query = key = rectangle.rows[None] * kv_heads + kv.view(-1, 1, 1, 1)
    behind = ~inside(rectangle)[None].expand(query.shape).flatten()
    padded = behind if fixed else behind.nonzero().flatten() if bool(behind.any()) else None
    prefix, size = None, 0
    if rectangle.prefix is not None:
        prefix, size = (
            rectangle.prefix[None] * kv_heads + kv.view(-1, 1, 1),
            rectangle.prefix.shape[1],
        )
        key = torch.cat([prefix[:, :, None].expand(-1, -1, rows, -1), key], 3)
        prefix = prefix.flatten()
    return GatherIndex(
        query.flatten(),
        key.flatten(),
        prefix,
        padded,
        (kv_heads, blocks, rows, heads // kv_heads, length, size),
    )


def gradient_of(made: GatherIndex, gradient: torch.Tensor) -> torch.Tensor:
    """The part (Hkv * B * N * L, G * D) of a gradient of all outputs that a rectangle gets; what
    stands behind a row's end gets none.
    """
    own = gradient.index_select(0, made.query)
    if made.padded is not None and made.padded.dtype == torch.bool:
        own.masked_fill_(made.padded.unsqueeze(1), 0)
    elif made.padded is not None:
        own.index_fill_(0, made.padded, 0)
    return own


ALIGNED = 8
"""Fused kernels want the rows of a mask to begin at multiples of so many entries."""


def mask_of(
    maps: GatherIndices, made: GatherIndex, window: int | None, like: torch.Tensor
) -> torch.Tensor:
    """What is added to the scores of a rectangle (L * G, P + L): each token sees what stands up to
    it, at most `window` tokens.
    """
    kind = made.shape[3:], window, like.dtype
    if kind not in maps.known_masks:
        group, length, prefix = made.shape[3:]
        token, seen = (
            torch.arange(length, device=like.device),
            torch.arange(prefix + length, device=like.device),
        )
        distance = token[:, None] + prefix - seen
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        room = like.new_zeros(length * group, -(-len(seen) // ALIGNED) * ALIGNED)[:, : len(seen)]
        maps.known_masks[kind] = room.masked_fill_(
            hidden.repeat_interleave(group, 0), float("-inf")
        )
    return maps.known_masks[kind]
