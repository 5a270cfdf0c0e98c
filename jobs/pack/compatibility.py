"""May this model be packed? Not by a list of names: a few examples run packed and plain, and losses
and gradients must agree.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs.config import Trial
from jobs.data.tokenization import Example
from jobs.pack.batch.packed_batch import Group
from jobs.pack.batch.prefix_groups import group_by_prefix
from jobs.pack.engine import Pack
from jobs.pack.layers.adapter_weights import Adapter
from jobs.pack.layers.cross_entropy import CrossEntropy

LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference of a mean loss, relative to 1 + the loss."""
GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of an adapter's gradient in relative Frobenius norm. What mixes neighbours up
is off by about 1.
"""
REFUSALS = (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, LookupError)
"""What architectures raise that the pack does not fit."""


def find_incompatibility(pack: Pack, trial: Trial) -> str | None:
    """Why this pack's model must take the plain executor; None when packed and plain agree. Leaves
    the pack ready to train.
    """
    if (limit := rope_limit(pack.model)) is not None and trial.train.max_length > limit:
        return (
            f"beyond {limit} tokens its rotary embedding depends on the longest row beside one; "
            f"train.max_length={limit} would pack"
        )
    dropped = next(
        (m.p for m in pack.model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0), 0.0
    )
    dropped = dropped or getattr(pack.model.config, "attention_dropout", 0.0) or 0.0
    if dropped:
        return (
            f"its base drops activations while it trains (dropout {dropped:g}), which the pack "
            "does not"
        )
    _, _, valid = pack.corpus(trial)
    by_length = sorted(valid, key=lambda example: len(example.ids))
    few = by_length[:2] + by_length[2:][-2:]
    slots = {-1: probe(pack, 1), -2: probe(pack, 2)}
    pack.active.adapters |= slots
    plain: dict[int, Outcome] = {}
    try:
        problem = compare(pack, few, list(slots), plain)
        for shortcut in (pack.trunk, pack.tail):
            if problem is not None and shortcut.detach():
                problem = compare(pack, few, list(slots), plain)
        return problem
    finally:
        for number in slots:
            pack.active.leave(number)


def rope_limit(model: Any) -> int | None:
    """Up to how many tokens the rotary embedding of a place is the same whatever stands beside it;
    None for always.
    """
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if {"dynamic", "longrope"} & set(kinds.values() if isinstance(kinds, dict) else [kinds]):
            rope = getattr(module.config, "rope_parameters", None) or {}
            each = [rope, *(part for part in rope.values() if isinstance(part, dict))]
            limits += [part.get("original_max_position_embeddings") for part in each] + [
                getattr(module, "original_max_seq_len", None)
            ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def compare(
    pack: Pack, few: list[Example], numbers: list[int], plain: dict[int, Outcome]
) -> str | None:
    """What packed and plain do not agree on; `plain` is filled at first, before the model is
    specialised.
    """
    try:
        if not plain:
            plain |= run_plain(pack, numbers, few)
            pack.specialise()
        return difference(plain, run_packed(pack, few, numbers), pack.dtype)
    except REFUSALS as error:
        return " ".join(str(error).split())[:200] or type(error).__name__


def probe(pack: Pack, seed: int) -> Adapter:
    """An adapter with random weights, large enough to matter. Two of them stand in one stack: their
    ranks are of one family.
    """
    adapter = Adapter(pack.shapes, 2 * seed, 1.0, pack.dtype, pack.device)
    generator = torch.Generator().manual_seed(seed)
    adapter.weights.data.copy_(torch.randn(adapter.weights.shape, generator=generator) * 0.03)
    return adapter


Outcome = tuple[float, torch.Tensor]
"""Mean loss per supervised token, and the adapter's gradient."""


def run_plain(pack: Pack, numbers: list[int], examples: list[Example]) -> dict[int, Outcome]:
    """One example at a time, a row for each slot, through the model as it was loaded and as it
    trains: some draw their experts then.
    """
    pack.active.arrange(numbers)
    sums, count = (
        torch.zeros(len(numbers), device=pack.device),
        sum(len(example.ids) - example.prompt_length for example in examples),
    )
    for example in examples:
        pack.model.train()
        ids = torch.tensor([example.ids] * len(numbers), device=pack.device)
        pack.active.groups = [Group(tuple(numbers), 0, len(example.ids))]
        try:
            logits: Any = pack.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            ).logits
            targets = ids[:, example.prompt_length :].flatten()
            weights = torch.full((len(targets),), 1 / count, device=pack.device)
            total, losses = CrossEntropy.apply(
                logits[:, example.prompt_length - 1 : -1].flatten(0, 1), targets, weights
            )  # type: ignore[misc]
            total.backward()
            pack.active.collect(numbers)
        finally:
            pack.active.groups = []
            pack.model.eval()
        sums += (losses * weights).view(len(numbers), -1).sum(1)
    return {
        number: (loss, pack.active.adapters[number].gradient.clone())
        for number, loss in zip(numbers, sums.tolist(), strict=True)
    }


def run_packed(pack: Pack, examples: list[Example], numbers: list[int]) -> dict[int, Outcome]:
    """All slots together."""
    weight = 1 / sum(len(example.ids) - example.prompt_length for example in examples)
    pack.active.arrange(numbers)
    layout, logits = pack.run(
        [part for number in numbers for part in group_by_prefix(number, examples, weight)]
    )
    total, losses = CrossEntropy.apply(logits, layout.targets, layout.weights)  # type: ignore[misc]
    total.backward()
    pack.active.collect(numbers)
    sums = (
        torch.zeros(len(numbers), device=pack.device)
        .index_add_(0, layout.owners, losses * layout.weights)
        .tolist()
    )
    return {
        number: (loss, pack.active.adapters[number].gradient.clone())
        for number, loss in zip(numbers, sums, strict=True)
    }


def difference(
    plain: dict[int, Outcome], packed: dict[int, Outcome], dtype: torch.dtype
) -> str | None:
    """What does not agree, in words."""
    for number, (loss, gradient) in plain.items():
        other, found = packed[number]
        if not abs(loss - other) <= LOSS_TOLERANCE[dtype] * (1 + abs(loss)):
            return f"packed and plain losses differ: {other:.5g} and {loss:.5g}"
        off = float(
            torch.linalg.vector_norm(found - gradient)
            / torch.linalg.vector_norm(gradient).clamp(min=1e-30)
        )
        if not off <= GRADIENT_TOLERANCE[dtype]:
            return f"packed and plain gradients differ by {off:.1%}"
    return None
