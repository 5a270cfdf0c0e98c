"""May this model be packed? No list of names decides it: a few examples run plain and packed, and
losses and gradients must agree.

pack/opening.py calls it in order: `obstacle`, `run_plain` before packing is enabled, `compare`
after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jobs.config import Trial
from jobs.data.tokenization import Example
from jobs.foreign_code import FOREIGN_CODE_ERRORS
from jobs.pack.batch.packed_batch import Group
from jobs.pack.batch.prefix_groups import group_by_prefix
from jobs.pack.engine import Pack
from jobs.pack.layers.adapter_weights import Adapter
from jobs.pack.layers.cross_entropy import CrossEntropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference of a mean loss, relative to 1 + the loss."""
GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of an adapter's gradient in relative Frobenius norm. What mixes neighbours up
is off by about 1.
"""


@dataclass(frozen=True)
class Outcome:
    """What one adapter gives for the examples of the comparison."""

    loss: float
    """Mean loss per supervised token, in nats."""
    gradient: torch.Tensor
    """float32 (weights of the adapter,)."""


@dataclass(frozen=True)
class Probes:
    """Two adapters with random weights in slots of their own, and a few examples to run them on."""

    slot_ids: list[int]
    examples: list[Example]


def obstacle(pack: Pack, trial: Trial) -> str | None:
    """What the structure of the base model shows that no comparison would: why this trial cannot be
    packed; None when nothing speaks against it.
    """
    limit = rope_limit(pack.model)
    if limit is not None and trial.train.max_length > limit:
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
    return None


@contextlib.contextmanager
def probing(pack: Pack, trial: Trial) -> Iterator[Probes]:
    """Probes in the pack, for as long as it is compared: the two shortest and the two longest
    validation examples.
    """
    _, _, valid = pack.corpus(trial)
    by_length = sorted(valid, key=lambda example: len(example.ids))
    adapters = {-1: probe(pack, 1), -2: probe(pack, 2)}
    pack.active.adapters |= adapters
    try:
        yield Probes(list(adapters), by_length[:2] + by_length[2:][-2:])
    finally:
        for slot_id in adapters:
            pack.active.leave(slot_id)


def compare(pack: Pack, probes: Probes, plain: dict[int, Outcome]) -> str | None:
    """Where the packed model and the plain outcomes differ; None when they agree.

    A shortcut that the difference comes from is left out from then on.
    """
    problem = difference_now(pack, probes, plain)
    for shortcut in (pack.hidden_cache, pack.tail):
        if problem is not None and shortcut.detach():
            problem = difference_now(pack, probes, plain)
    return problem


def difference_now(pack: Pack, probes: Probes, plain: dict[int, Outcome]) -> str | None:
    """Where the pack as it is and the plain outcomes differ, or why it cannot run."""
    try:
        return difference(plain, run_packed(pack, probes), pack.dtype)
    except FOREIGN_CODE_ERRORS as error:
        return refusal(error)


def refusal(error: Exception) -> str:
    """One line for an error that says that the pack does not fit."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def rope_limit(model: PreTrainedModel) -> int | None:
    """The length up to which the rotary embedding of a position does not depend on its neighbours;
    None where it never does.
    """
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if {"dynamic", "longrope"} & set(kinds.values() if isinstance(kinds, dict) else [kinds]):
            rope = getattr(module.config, "rope_parameters", None) or {}
            ropes = [rope, *(nested for nested in rope.values() if isinstance(nested, dict))]
            limits += [nested.get("original_max_position_embeddings") for nested in ropes] + [
                getattr(module, "original_max_seq_len", None)
            ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def probe(pack: Pack, seed: int) -> Adapter:
    """An adapter with random weights that are large enough to matter. The two probes share a stack,
    because their ranks are of one family.
    """
    adapter = Adapter(pack.shapes, 2 * seed, 1.0, pack.dtype, pack.device)
    generator = torch.Generator().manual_seed(seed)
    adapter.weights.data.copy_(torch.randn(adapter.weights.shape, generator=generator) * 0.03)
    return adapter


def run_plain(pack: Pack, probes: Probes) -> dict[int, Outcome]:
    """The outcomes of the model as it was loaded, by slot: one example at a time, a row for each
    probe.

    The model is in training mode: some architectures draw their experts then.
    """
    slot_ids = probes.slot_ids
    pack.active.arrange(slot_ids)
    sums = torch.zeros(len(slot_ids), device=pack.device)
    count = num_supervised(probes.examples)
    for example in probes.examples:
        pack.model.train()
        ids = torch.tensor([example.ids] * len(slot_ids), device=pack.device)
        pack.active.groups = [Group(tuple(slot_ids), 0, len(example.ids))]
        try:
            logits: torch.Tensor = pack.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            ).logits
            targets = ids[:, example.prompt_length :].flatten()
            weights = torch.full((len(targets),), 1 / count, device=pack.device)
            total, losses = CrossEntropy.apply(
                logits[:, example.prompt_length - 1 : -1].flatten(0, 1), targets, weights
            )  # type: ignore[misc]
            total.backward()
            pack.active.collect(slot_ids)
        finally:
            pack.active.groups = []
            pack.model.eval()
        sums += (losses * weights).view(len(slot_ids), -1).sum(1)
    return outcomes(pack, slot_ids, sums)


def run_packed(pack: Pack, probes: Probes) -> dict[int, Outcome]:
    """The outcomes of the packed model, by slot: all examples of all probes in one pass."""
    slot_ids = probes.slot_ids
    weight = 1 / num_supervised(probes.examples)
    pack.active.arrange(slot_ids)
    layout, logits = pack.run(
        [
            prefix_group
            for slot_id in slot_ids
            for prefix_group in group_by_prefix(slot_id, probes.examples, weight)
        ]
    )
    total, losses = CrossEntropy.apply(logits, layout.targets, layout.weights)  # type: ignore[misc]
    total.backward()
    pack.active.collect(slot_ids)
    sums = torch.zeros(len(slot_ids), device=pack.device)
    sums.index_add_(0, layout.owners, losses * layout.weights)
    return outcomes(pack, slot_ids, sums)


def num_supervised(examples: list[Example]) -> int:
    """Tokens of the answers of some examples."""
    return sum(len(example.ids) - example.prompt_length for example in examples)


def outcomes(pack: Pack, slot_ids: list[int], sums: torch.Tensor) -> dict[int, Outcome]:
    """The losses (slots,) and the gradients collected so far, by slot.

    float32.
    """
    return {
        slot_id: Outcome(loss, pack.active.adapters[slot_id].gradient.clone())
        for slot_id, loss in zip(slot_ids, sums.tolist(), strict=True)
    }


def difference(
    plain: dict[int, Outcome], packed: dict[int, Outcome], dtype: torch.dtype
) -> str | None:
    """The first difference beyond the tolerances, in words; None for none."""
    for slot_id, expected in plain.items():
        actual = packed[slot_id]
        loss = expected.loss
        if not abs(loss - actual.loss) <= LOSS_TOLERANCE[dtype] * (1 + abs(loss)):
            return f"packed and plain losses differ: {actual.loss:.5g} and {loss:.5g}"
        norm = torch.linalg.vector_norm(expected.gradient).clamp(min=1e-30)
        relative = float(torch.linalg.vector_norm(actual.gradient - expected.gradient) / norm)
        if not relative <= GRADIENT_TOLERANCE[dtype]:
            return f"packed and plain gradients differ by {relative:.1%}"
    return None
