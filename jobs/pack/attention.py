"""Attention over the flat row: every example sees its slot's common beginning and itself, as if it stood alone.

Registered with transformers as the attention implementation "pack", so that decoders run unmodified. Explicit matrix products over small
rectangles: at the lengths of a task's examples they beat the fused kernels of a CPU, whose backward is poor there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jobs.pack.layout import Layout, Rectangle

NAME = "pack"
KEPT_ELEMENTS = 1 << 22
"""Attention probabilities of larger rectangles are computed again in the backward pass instead of being kept."""
UNDERSTOOD = {"pack", "scaling", "sliding_window", "softcap", "dropout", "is_causal", "position_ids", "use_cache", "cache_position"}
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
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *arguments, **options: None)


def attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """What a transformers layer calls: query (1, H, T, D), key and value (1, Hkv, T, D) -> (1, T, H, D).

    Raises ValueError for what the pack does not do, so that the check at start turns to the plain executor.
    """
    layout = options.get("pack")
    unknown = sorted(name for name, given in options.items() if given is not None and name not in UNDERSTOOD | HARMLESS)
    if not isinstance(layout, Layout):
        raise ValueError("this architecture does not hand keyword arguments on to its attention")
    if unknown or mask is not None or options.get("dropout"):
        raise ValueError(f"its attention uses {', '.join(unknown) or ('a mask of its own' if mask is not None else 'dropout')}")
    if key.shape[2] != layout.ids.shape[1] or value.shape[-1] != query.shape[-1]:
        raise ValueError("its attention has keys or values of another shape")
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = options.get("sliding_window")
    maps = maps_of(layout, query.shape[1], key.shape[1])
    rows = [tensor[0].transpose(0, 1).reshape(-1, tensor.shape[-1]) for tensor in (query, key, value)]
    out: torch.Tensor = Attention.apply(*rows, layout.rectangles, maps, scaling, window, options.get("softcap"))  # type: ignore[assignment]
    return out.view(1, -1, query.shape[1], query.shape[-1]), None


@dataclass
class Map:
    """Which rows of the flattened queries (T * H, D) and keys (T * Hkv, D) a rectangle takes, in the order of its products."""

    query: torch.Tensor
    """int64 (Hkv * B * N * G * L,)."""
    key: torch.Tensor
    """int64 (Hkv * B * N * L,)."""
    prefix: torch.Tensor | None
    """int64 (Hkv * B * P,)."""
    padded: torch.Tensor | None
    """int64: which of the query's entries stand behind the end of their row."""
    shape: tuple[int, int, int, int, int, int]
    """Hkv, B, N, G, L, P."""


@dataclass
class Maps:
    """The maps of all rectangles, and the way back: for each row of the flat tensors, its entry among the rectangles' outputs in turn."""

    each: list[Map]
    query_back: torch.Tensor
    key_back: torch.Tensor
    padded: bool
    """Whether some rows stand in no rectangle."""


def maps_of(layout: Layout, heads: int, kv_heads: int) -> Maps:
    """The index tensors of a layout for one shape of attention; made once, used by every layer of that shape."""
    if (heads, kv_heads) not in layout.known_maps:
        layout.known_maps[heads, kv_heads] = make_maps(layout, heads, kv_heads)
    return layout.known_maps[heads, kv_heads]


def make_maps(layout: Layout, heads: int, kv_heads: int) -> Maps:
    """The maps of all rectangles, and the way back to the flat rows; padding stands in none and points behind them all."""
    device, num_tokens = layout.ids.device, layout.ids.shape[1]
    back = [torch.full((num_tokens * count,), -1, dtype=torch.long, device=device) for count in (heads, kv_heads)]
    each, offsets = [], [0, 0]
    for rectangle in layout.rectangles:
        made, valid = make_map(rectangle, heads, kv_heads)
        for way, index, mask, place in ((back[0], made.query, valid[0], 0), (back[1], made.key, valid[1], 1)):
            way[index[mask]] = torch.arange(len(index), device=device)[mask] + offsets[place]
            offsets[place] += len(index)
        each.append(made)
    if layout.num_padded:
        back = [torch.where(way < 0, offset, way) for way, offset in zip(back, offsets, strict=True)]
    return Maps(each, back[0], back[1], layout.num_padded > 0)


def whole(parts: list[torch.Tensor], way: torch.Tensor, padded: bool) -> torch.Tensor:
    """What the rectangles give, brought back to the flat rows; zeros for padding, which no other slot's numbers can reach."""
    parts = [*parts, parts[0].new_zeros(1, parts[0].shape[1])] if padded else parts
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).index_select(0, way)


def make_map(rectangle: Rectangle, heads: int, kv_heads: int) -> tuple[Map, tuple[torch.Tensor, torch.Tensor]]:
    """The map of one rectangle, and which entries of queries and keys are real."""
    blocks, rows, length = rectangle.rows.shape
    group, device = heads // kv_heads, rectangle.rows.device
    kv = torch.arange(kv_heads, device=device)
    head = (kv[:, None] * group + torch.arange(group, device=device)).view(kv_heads, 1, 1, group, 1)
    query = rectangle.rows[None, :, :, None, :] * heads + head
    key = rectangle.rows[None] * kv_heads + kv.view(-1, 1, 1, 1)
    real = torch.arange(length, device=device) < rectangle.lengths[..., None]
    real_query = real[None, :, :, None].expand(query.shape).flatten()
    prefix = None if rectangle.prefix is None else (rectangle.prefix[None] * kv_heads + kv.view(-1, 1, 1)).flatten()
    padded = None if bool(real.all()) else (~real_query).nonzero().flatten()
    size = 0 if rectangle.prefix is None else rectangle.prefix.shape[1]
    made = Map(query.flatten(), key.flatten(), prefix, padded, (kv_heads, blocks, rows, group, length, size))
    return made, (real_query, real[None].expand(key.shape).flatten())


def masks(shape: tuple[int, ...], window: int | None, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What is added to the scores: (G * L, L) within a row, and (G * L, P) towards the prefix where a sliding window hides some of it."""
    group, length, prefix = shape[3:]
    place = torch.arange(length, device=like.device)
    distance = place[:, None] - place[None, :]
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    own = torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
    if window is None or prefix == 0 or prefix + length <= window:
        return own.repeat(group, 1), None
    far = place[:, None] + prefix - torch.arange(prefix, device=like.device)[None, :] >= window
    return own.repeat(group, 1), torch.zeros(far.shape, dtype=like.dtype, device=like.device).masked_fill_(far, float("-inf")).repeat(
        group, 1
    )


def probabilities(
    q: torch.Tensor, k: torch.Tensor, kp: torch.Tensor | None, shape: Any, rule: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax of the scores (Hkv * B * N, G * L, P + L); and the capped scores before masking, where a cap is set, for the backward."""
    scaling, window, cap = rule
    kv, blocks, rows, group, length, prefix = shape
    own_mask, far_mask = masks(shape, window, q)
    own_q = q.view(kv * blocks * rows, group * length, -1)
    if cap is None:
        own = torch.baddbmm(own_mask, own_q, k.transpose(1, 2), alpha=scaling)
        far = (
            None
            if kp is None
            else torch.bmm(q.view(kv * blocks, -1, q.shape[-1]), kp.transpose(1, 2)).mul_(scaling).view(len(own_q), -1, prefix)
        )
        if far is not None and far_mask is not None:
            far += far_mask
        return torch.softmax(own if far is None else torch.cat([far, own], -1), -1), None
    own = torch.bmm(own_q, k.transpose(1, 2))
    far = None if kp is None else torch.bmm(q.view(kv * blocks, -1, q.shape[-1]), kp.transpose(1, 2)).view(len(own_q), -1, prefix)
    capped = torch.tanh((own if far is None else torch.cat([far, own], -1)) * (scaling / cap))
    scores = capped * cap
    scores[..., prefix:] += own_mask
    if far_mask is not None:
        scores[..., :prefix] += far_mask
    return torch.softmax(scores, -1), capped


class Attention(torch.autograd.Function):
    """All rectangles of a layout: queries (T * H, D), keys and values (T * Hkv, D) -> (T * H, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rectangles: Any,
        maps: Maps,
        scaling: float,
        window: Any,
        cap: Any,
    ) -> torch.Tensor:
        rule, outputs, kept = (scaling, window, cap), [], []
        keep = query.requires_grad or key.requires_grad or value.requires_grad
        for made in maps.each:
            out, saved = forward_one(query, key, value, made, rule)
            outputs.append(out)
            kept += saved if keep else []
        ctx.maps, ctx.rule = maps, rule
        ctx.save_for_backward(query, key, value, *kept)
        return whole(outputs, maps.query_back, maps.padded)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, *kept = ctx.saved_tensors
        grads: list[list[torch.Tensor]] = [[], [], []]
        later: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        gradient = gradients[0].contiguous()
        for number, made in enumerate(ctx.maps.each):
            dq, dk, dv, far = backward_one(gradient, (query, key, value), made, ctx.rule, kept[number])
            for collected, new in zip(grads, (dq, dk, dv), strict=True):
                collected.append(new)
            later += far
        ways = ctx.maps.query_back, ctx.maps.key_back, ctx.maps.key_back
        joined = [whole(each, way, ctx.maps.padded) for each, way in zip(grads, ways, strict=True)]
        for index, dkp, dvp in later:
            for whole_gradient, part in ((joined[1], dkp), (joined[2], dvp)):  # a prefix row stands once: quicker than index_add_
                whole_gradient.index_copy_(0, index, part.add_(whole_gradient.index_select(0, index)))
        return (*joined, None, None, None, None, None)


def take(made: Map, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A rectangle's queries (Hkv * B * N, G * L, D), keys and values (Hkv * B * N, L, D)."""
    kv, blocks, rows, group, length, _ = made.shape
    q = query.index_select(0, made.query).view(kv * blocks * rows, group * length, -1)
    k = key.index_select(0, made.key).view(kv * blocks * rows, length, -1)
    return q, k, value.index_select(0, made.key).view(kv * blocks * rows, length, -1)


def take_prefix(made: Map, tensor: torch.Tensor) -> torch.Tensor | None:
    """A rectangle's prefix keys or values (Hkv * B, P, D)."""
    kv, blocks, _, _, _, prefix = made.shape
    return None if made.prefix is None else tensor.index_select(0, made.prefix).view(kv * blocks, prefix, -1)


def forward_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, made: Map, rule: Any) -> tuple[torch.Tensor, list[Any]]:
    """The output rows of one rectangle, and its probabilities if they are worth keeping (else an empty tensor)."""
    q, k, v = take(made, query, key, value)
    kp, vp = take_prefix(made, key), take_prefix(made, value)
    weights, _ = probabilities(q, k, kp, made.shape, rule)
    kv, blocks, _, _, _, prefix = made.shape
    out = torch.bmm(weights[..., prefix:], v)
    if vp is not None:
        out.view(kv * blocks, -1, out.shape[-1]).baddbmm_(weights[..., :prefix].reshape(kv * blocks, -1, prefix), vp)
    small = rule[2] is None and weights.numel() <= KEPT_ELEMENTS
    return out.view(-1, out.shape[-1]), [weights if small else weights.new_empty(0)]


def backward_one(gradient: torch.Tensor, inputs: Any, made: Map, rule: Any, kept: torch.Tensor) -> Any:
    """Gradients of one rectangle's queries, keys and values, and those of its prefix with the rows that they belong to."""
    scaling = rule[0]
    kv, blocks, _, _, _, prefix = made.shape
    q, k, v = take(made, *inputs)
    kp, vp = take_prefix(made, inputs[1]), take_prefix(made, inputs[2])
    weights, capped = (kept, None) if kept.numel() else probabilities(q, k, kp, made.shape, rule)
    out = gradient.index_select(0, made.query)
    if made.padded is not None:
        out.index_fill_(0, made.padded, 0)
    out = out.view_as(q)
    own = torch.bmm(out, v.transpose(1, 2))
    wide = out.view(kv * blocks, -1, out.shape[-1])
    if vp is not None:
        own = torch.cat([torch.bmm(wide, vp.transpose(1, 2)).view(len(own), -1, prefix), own], -1)
    scores = torch.ops.aten._softmax_backward_data(own, weights, -1, weights.dtype)
    if capped is not None:
        scores = scores * (1 - capped * capped)
    scores = scores * scaling
    near = scores[..., prefix:]
    dq, later = torch.bmm(near, k), []
    if kp is not None and vp is not None and made.prefix is not None:
        far = scores[..., :prefix].reshape(kv * blocks, -1, prefix)
        dq.view(kv * blocks, -1, dq.shape[-1]).baddbmm_(far, kp)
        dkp = torch.bmm(far.transpose(1, 2), q.view(kv * blocks, -1, q.shape[-1]))
        dvp = torch.bmm(weights[..., :prefix].reshape(kv * blocks, -1, prefix).transpose(1, 2), wide)
        later = [(made.prefix, dkp.flatten(0, 1), dvp.flatten(0, 1))]
    dk, dv = torch.bmm(near.transpose(1, 2), q), torch.bmm(weights[..., prefix:].transpose(1, 2), out)
    return dq.flatten(0, 1), dk.flatten(0, 1), dv.flatten(0, 1), later
