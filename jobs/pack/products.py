"""Attention of a flat row as explicit matrix products over small rectangles: at the lengths of a task's examples they beat the fused
kernels of a CPU, whose backward is poor there. Also what runs wherever scores are capped.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.pack.maps import Map, Maps, gradient_of, masks, whole

KEPT_ELEMENTS = 1 << 22
"""Attention probabilities of larger rectangles are computed again in the backward pass instead of being kept."""


def probabilities(
    q: torch.Tensor, k: torch.Tensor, kp: torch.Tensor | None, shape: Any, rule: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax of the scores (Hkv * B * N, G * L, P + L); and the capped scores before masking, where a cap is set, for the backward."""
    scaling, window, cap = rule
    kv, blocks, rows, group, length, prefix = shape
    own_mask, far_mask = masks(shape, window, q)
    own_q = q.view(kv * blocks * rows, group * length, -1)
    scores = q.new_empty(*own_q.shape[:2], prefix + length)
    alpha = scaling if cap is None else 1.0
    if kp is not None:
        far = torch.bmm(q.view(kv * blocks, -1, q.shape[-1]), kp.transpose(1, 2)).view(len(own_q), -1, prefix)
        torch.mul(far, alpha, out=scores[..., :prefix])
    if cap is None:
        scores[..., prefix:] = torch.baddbmm(own_mask, own_q, k.transpose(1, 2), alpha=scaling)
        capped = None
    else:
        scores[..., prefix:] = torch.bmm(own_q, k.transpose(1, 2))
        capped = torch.tanh(scores * (scaling / cap))
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
        return (*joined, None, None, None, None)


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
    out = gradient_of(made, gradient).view_as(q)
    wide = out.view(kv * blocks, -1, out.shape[-1])
    own = torch.empty_like(weights)
    own[..., prefix:] = torch.bmm(out, v.transpose(1, 2))
    if vp is not None:
        own[..., :prefix] = torch.bmm(wide, vp.transpose(1, 2)).view(len(own), -1, prefix)
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
