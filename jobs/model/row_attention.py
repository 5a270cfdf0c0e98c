"""Attention of many rows that are answered together, one token at a time: each sees the prompts'
common beginning, which is kept once for all of them, and itself.

Keys and values stand in one buffer per layer, made once: a token's are written into it, and nothing
is copied from step to step, nor repeated for the heads that share them. Rows stand with their ends
aligned; a shorter one begins in a later column. Registered with transformers as the attention
implementation "rows", so that decoders run unmodified.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

NAME = "rows"
MOST_SCORES = 1 << 25
"""Scores of tokens for one another that stand in memory at once: of longer prompts some tokens are
done at a time.
"""
UNDERSTOOD = {"rows", "scaling", "sliding_window", "softcap", "is_causal", "position_ids"}
HARMLESS = {
    "use_cache",
    "cache_position",
    "output_attentions",
    "output_hidden_states",
    "cache",
    "past_key_values",
    "position_embeddings",
    "layer_idx",
    "logits_to_keep",
    "return_dict",
    "dropout",
}


class RowCache(DynamicCache):
    """Keys and values of some rows, layer by layer."""

    def __init__(self, starts: torch.Tensor, width: int, prefix: PrefixCache | None) -> None:
        """`starts` (N,) are the columns in which rows begin, `width` is the number of columns."""
        super().__init__()
        self.starts = starts
        self.width = width
        self.prefix = prefix
        self.keys: dict[int, torch.Tensor] = {}
        """By layer: (N, key heads, width, size of a head)."""
        self.values: dict[int, torch.Tensor] = {}
        self.filled = 0
        """Columns that are written, once a step is through all layers."""
        self.layer = 0
        """The one that was written last."""
        self.rows = slice(0, len(starts))
        """Those that go through the model now."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens, and give what the rows have so far."""
        end = self.filled + key_states.shape[2]
        if layer_idx not in self.keys:
            for buffers, states in ((self.keys, key_states), (self.values, value_states)):
                shape = (len(self.starts), states.shape[1], self.width, states.shape[3])
                buffers[layer_idx] = states.new_zeros(shape)
        keys, values = self.keys[layer_idx][self.rows], self.values[layer_idx][self.rows]
        keys[:, :, self.filled : end] = key_states
        values[:, :, self.filled : end] = value_states
        self.layer = layer_idx
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that stand before the next one, in the longest row."""
        return self.filled + (0 if self.prefix is None else self.prefix.length)

    @property
    def nbytes(self) -> int:
        """What all buffers take."""
        return sum(one.nbytes for one in [*self.keys.values(), *self.values.values()])

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.starts = self.starts[rows]
        for buffers in (self.keys, self.values):
            for layer, buffer in buffers.items():
                buffers[layer] = buffer[rows]
        self.rows = slice(0, len(rows))

    def hidden(self, new: int) -> torch.Tensor:
        """What the last `new` columns do not see: bool (rows, new, columns)."""
        columns = torch.arange(self.filled + new, device=self.starts.device)
        before = columns[None, None, :] < self.starts[self.rows, None, None]
        return before | (columns[None, None, :] > columns[-new:, None])


class PrefixCache:
    """Keys and values of the prompts' common beginning, once for all rows."""

    def __init__(self, cache: DynamicCache) -> None:
        self.keys = [layer.keys[0] for layer in cache.layers]  # type: ignore[union-attr]
        """By layer: (key heads, tokens, size of a head)."""
        self.values = [layer.values[0] for layer in cache.layers]  # type: ignore[union-attr]
        self.length = self.keys[0].shape[1]


@contextmanager
def attention_of_rows(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model's layers attend so. Raises ValueError for a model that does not take an
    attention from outside.
    """
    AttentionInterface.register(NAME, attend)
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What a transformers layer calls: query (N, H, L, D), key and value (N, Hkv, columns, D) ->
    (N, L, H, D). Raises ValueError for what is not done here.
    """
    cache = options.get("rows")
    asked = (name for name, option in options.items() if option is not None and option is not False)
    unknown = sorted(name for name in asked if name not in UNDERSTOOD | HARMLESS)
    if not isinstance(cache, RowCache):
        raise ValueError("this architecture does not hand keyword arguments on to its attention")
    if unknown or mask is not None or options.get("dropout"):
        raise ValueError(f"its attention uses {', '.join(unknown) or 'a mask or dropout'}")
    window = options.get("sliding_window")
    if window is not None and cache.get_seq_length() + query.shape[2] > window:
        raise ValueError("its attention does not see all of a row")
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    prefix = None
    if cache.prefix is not None:
        prefix = cache.prefix.keys[cache.layer], cache.prefix.values[cache.layer]
    hidden = cache.hidden(query.shape[2])
    columns = hidden.shape[2] + (0 if prefix is None else prefix[0].shape[1])
    at_once = max(1, MOST_SCORES // (query.shape[0] * query.shape[1] * columns))
    softcap = options.get("softcap")
    parts = [
        rows_attention(
            query[:, :, start : start + at_once] * scaling,
            key,
            value,
            hidden[:, start : start + at_once],
            prefix,
            softcap,
        )
        for start in range(0, query.shape[2], at_once)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def rows_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
    softcap: float | None,
) -> torch.Tensor:
    """Scaled queries (N, H, L, D), keys and values (N, G, S, D), what is not seen (N, L, S), and
    keys and values (G, P, D) that all rows see -> (N, H, L, D).
    """
    rows, heads, length, size = query.shape
    groups, columns = key.shape[1], key.shape[2]
    each = heads // groups * length
    grouped = query.reshape(rows, groups, each, size)
    scores = torch.matmul(grouped, key.transpose(2, 3))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores.view(rows, heads, length, columns).masked_fill_(
        hidden[:, None], torch.finfo(scores.dtype).min
    )
    if prefix is None:
        weights = scores.float().softmax(-1).to(value.dtype)
        return torch.matmul(weights, value).view(rows, heads, length, size)
    keys, values = prefix
    common = grouped.transpose(0, 1).reshape(groups, rows * each, size)
    before = torch.bmm(common, keys.transpose(1, 2))
    if softcap is not None:
        before = torch.tanh(before / softcap) * softcap
    before = before.view(groups, rows, each, -1).transpose(0, 1)
    weights = torch.cat([before, scores], -1).float().softmax(-1).to(value.dtype)
    split = keys.shape[1]
    told = torch.matmul(weights[..., split:], value)
    shared = weights[..., :split].transpose(0, 1).reshape(groups, rows * each, split)
    told += torch.bmm(shared, values).view(groups, rows, each, size).transpose(0, 1)
    return told.view(rows, heads, length, size)
