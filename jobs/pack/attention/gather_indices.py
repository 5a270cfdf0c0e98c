"""Which rows of the flat tensors the rectangles of an attention take, in the order of its products,
and what its tokens may not see.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

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

    blocks: list[GatherIndex]
    query_back: torch.Tensor
    key_back: torch.Tensor
    padded: bool
    """Whether some rows stand in no rectangle."""
    masks: dict[Hashable, torch.Tensor] = field(default_factory=dict)
    """What is added to scores, by shape, window and format."""


def maps_of(layout: PackedBatch, heads: int, kv_heads: int) -> GatherIndices:
    """The index tensors of a layout for one shape of attention; made once, used by every layer of
    that shape.
    """
    kind = heads, kv_heads
    if kind not in layout.gather_indices:
        layout.gather_indices[kind] = make_maps(layout, *kind)
    return layout.gather_indices[kind]


def make_maps(layout: PackedBatch, heads: int, kv_heads: int) -> GatherIndices:
    """The maps of all rectangles, and the way back to the flat rows; padding stands in none and
    points behind them all.

    With a room nothing here waits for a number from the GPU.
    """
    num_tokens = layout.ids.shape[1]
    device = layout.ids.device
    query_back, key_back = (
        torch.zeros(num_tokens + 1, kv_heads, dtype=torch.long, device=device) for _ in range(2)
    )
    block_indices = []
    num_queries = 0
    num_keys = 0
    for block in layout.rectangles:
        block_index = make_map(block, heads, kv_heads, layout.room is not None)
        query, key = entries(block_index.shape, device)
        tokens = block.rows.masked_fill(~inside(block), num_tokens).flatten()
        query_back[tokens] = query + num_queries
        key_back[tokens] = key + num_keys
        block_indices.append(block_index)
        num_queries = num_queries + len(block_index.query)
        num_keys = num_keys + len(block_index.key)
    padded = layout.num_padded > 0 or layout.room is not None
    if padded:
        nowhere = torch.ones(num_tokens + 1, 1, dtype=torch.bool, device=device)
        for block in layout.rectangles:
            nowhere.index_fill_(0, block.rows.flatten(), False)
        query_back.masked_fill_(nowhere, num_queries)
        key_back.masked_fill_(nowhere, num_keys)
    return GatherIndices(block_indices, query_back[:-1].flatten(), key_back[:-1].flatten(), padded)


def inside(block: AttentionBlock) -> torch.Tensor:
    """Which places of a rectangle hold a token of its row; bool (B, N, L)."""
    return torch.arange(block.rows.shape[2], device=block.rows.device) < block.lengths[..., None]


def entries(shape: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the queries and the own keys of a rectangle's tokens stand in its products, each (B * N
    * L, Hkv).

    int64 both.
    """
    kv, blocks, rows, _, length, prefix = shape
    row = torch.arange(blocks * rows, device=device).view(-1, 1, 1)
    token = torch.arange(length, device=device).view(-1, 1)
    row = torch.arange(kv, device=device) * blocks * rows + row
    return (row * length + token).view(-1, kv), (row * (prefix + length) + prefix + token).view(
        -1, kv
    )


def scatter_rows(
    block_outputs: list[torch.Tensor], output_rows: torch.Tensor, padded: bool
) -> torch.Tensor:
    """What the rectangles give, brought back to the flat rows; zeros for padding, which no other
    slot's numbers can reach.

    `block_outputs` are [rows of one rectangle, width] in the format of the products, `output_rows`
    int64 [flat rows]; gives [flat rows, width].
    """
    block_outputs = (
        [*block_outputs, block_outputs[0].new_zeros(1, block_outputs[0].shape[1])]
        if padded
        else block_outputs
    )
    return (block_outputs[0] if len(block_outputs) == 1 else torch.cat(block_outputs)).index_select(
        0, output_rows
    )


def make_map(block: AttentionBlock, heads: int, kv_heads: int, fixed: bool) -> GatherIndex:
    """The map of one rectangle. `fixed`: no shape depends on how much of it is real."""
    (blocks, rows, length) = block.rows.shape
    device = block.rows.device
    kv = torch.arange(kv_heads, device=device)
    query = key = block.rows[None] * kv_heads + kv.view(-1, 1, 1, 1)
    is_filler = ~inside(block)[None].expand(query.shape).flatten()
    padded: torch.Tensor | None = None
    if fixed:
        padded = is_filler
    elif bool(is_filler.any()):
        padded = is_filler.nonzero().flatten()
    prefix = None
    size = 0
    if block.prefix is not None:
        prefix, size = (
            block.prefix[None] * kv_heads + kv.view(-1, 1, 1),
            block.prefix.shape[1],
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


def gradient_of(block_index: GatherIndex, gradient: torch.Tensor) -> torch.Tensor:
    """The part (Hkv * B * N * L, G * D) of a gradient of all outputs that a rectangle gets; what
    stands behind a row's end gets none.

    Both in the format of the products: `gradient` is [tokens * key heads, queries per key head *
    head width].
    """
    block_gradient = gradient.index_select(0, block_index.query)
    if block_index.padded is not None and block_index.padded.dtype == torch.bool:
        block_gradient.masked_fill_(block_index.padded.unsqueeze(1), 0)
    elif block_index.padded is not None:
        block_gradient.index_fill_(0, block_index.padded, 0)
    return block_gradient


ALIGNED = 8
"""Fused kernels want the rows of a mask to begin at multiples of so many entries."""


def mask_of(
    indices: GatherIndices, block_index: GatherIndex, window: int | None, like: torch.Tensor
) -> torch.Tensor:
    """What is added to the scores of a rectangle (L * G, P + L): each token sees what stands up to
    it, at most `window` tokens.

    Zeros and -inf in the format of `like`.
    """
    kind = block_index.shape[3:], window, like.dtype
    if kind not in indices.masks:
        group, length, prefix = block_index.shape[3:]
        token = torch.arange(length, device=like.device)
        key_position = torch.arange(prefix + length, device=like.device)
        distance = token[:, None] + prefix - key_position
        is_hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        mask = like.new_zeros(length * group, -(-len(key_position) // ALIGNED) * ALIGNED)[
            :, : len(key_position)
        ]
        indices.masks[kind] = mask.masked_fill_(
            is_hidden.repeat_interleave(group, 0), float("-inf")
        )
    return indices.masks[kind]
