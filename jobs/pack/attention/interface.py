"""Attention over the flat row: every example sees its slot's common beginning and itself, as if it
stood alone.

Registered with transformers as the attention implementation "pack", so that decoders run
unmodified. spread.py computes it.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.pack.attention.gather_indices import maps_of
from jobs.pack.attention.gather_scatter import spread_attention
from jobs.pack.batch.packed_batch import PackedBatch

NAME = "pack"
UNDERSTOOD = {
    "pack",
    "scaling",
    "sliding_window",
    "softcap",
    "dropout",
    "is_causal",
    "position_ids",
    "use_cache",
    "cache_position",
}
HARMLESS = {
    "output_attentions",
    "output_hidden_states",
    "past_key_values",
    "position_embeddings",
    "layer_idx",
    "logits_to_keep",
    "return_dict",
}


def register() -> None:
    """Make the implementation known to transformers. Safe to call again."""
    from transformers import AttentionInterface

    AttentionInterface.register(
        NAME, attend
    )  # for a name without a mask function of its own transformers makes no mask


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What a transformers layer calls: query (1, H, T, D), key and value (1, Hkv, T, D) -> (1, T,
    H, D).

    Raises ValueError for what the pack does not do, so that the check at start turns to the plain
    executor.

    All in the format of the products; T tokens, H query heads, Hkv key heads, D the width of a
    head.
    """
    layout = options.get("pack")
    asked = (
        name
        for name, option_value in options.items()
        if option_value is not None and option_value is not False
    )
    unknown = sorted(name for name in asked if name not in UNDERSTOOD | HARMLESS)
    if not isinstance(layout, PackedBatch):
        raise ValueError("this architecture does not hand keyword arguments on to its attention")
    if unknown or mask is not None or options.get("dropout"):
        raise ValueError(
            "its attention uses "
            f"{', '.join(unknown) or ('a mask of its own' if mask is not None else 'dropout')}"
        )
    if key.shape[2] != layout.ids.shape[1] or value.shape[-1] != query.shape[-1]:
        raise ValueError("its attention has keys or values of another shape")
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = options.get("sliding_window")
    queries, keys, values = (
        tensor[0].transpose(0, 1).reshape(-1, tensor.shape[-1]) for tensor in (query, key, value)
    )
    maps = maps_of(layout, query.shape[1], key.shape[1])
    out = spread_attention(queries, keys, values, maps, scaling, window, options.get("softcap"))
    return out.view(1, -1, query.shape[1], query.shape[-1]), None
