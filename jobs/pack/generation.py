"""Answers of a pack's slots to validation rows, for metrics that need text.

The packed model runs a flat row of many slots and keeps no keys and values. So answers come from a
plain model beside it, with the same code as in a trial that trains by itself. It reads the pack's
own frozen weights: both models hold them once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from jobs.evaluation import registry
from jobs.evaluation.generate import answer
from jobs.evaluation.rung_scores import RungScores
from jobs.model.loading import load
from jobs.pack.engine import Pack
from jobs.pack.task_numbers import task_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def text_metrics(
    pack: Pack, slot_ids: list[int]
) -> tuple[dict[int, dict[str, float]], dict[int, str]]:
    """The text metrics of each of these slots, nothing where its sweep needs none; and why a slot's
    answers could not be scored, where the user's own function fails on them.
    """
    by_slot: dict[int, dict[str, float]] = {}
    failures: dict[int, str] = {}
    scores_by_split: dict[tuple[int, int], RungScores] = {}
    for slot_id in sorted(slot_ids):
        task = task_of(slot_id)
        scoring = pack.scorings[task]
        if not registry.needs_text(scoring.metric):
            by_slot[slot_id] = {}
            continue
        corpus, _, valid = pack.corpus(pack.slots[slot_id].trial)
        split = task, id(valid)
        if split not in scores_by_split:
            scores_by_split[split] = RungScores(scoring, corpus, valid)
        texts = scores_by_split[split]
        rows, answers = answer_slot(pack, slot_id, texts)
        try:
            by_slot[slot_id] = texts.metrics(rows, answers)
        except ValueError as error:
            failures[slot_id] = str(error)
    return by_slot, failures


@torch.no_grad()
def answer_slot(pack: Pack, slot_id: int, texts: RungScores) -> tuple[list[int], list[str]]:
    """The rows that one slot answers and its answers, shared between the workers: each has all."""
    slot = pack.slots[slot_id]
    rows = texts.rows(slot.step >= slot.trial.train.steps)
    mine = rows[pack.world.rank :: pack.world.size]
    model = with_adapter(pack, slot_id)
    try:
        answers = answer(
            model, texts.prompts(mine), pack.template, texts.max_new_tokens, lambda count: None
        )
    finally:
        pack.generator = model.unload()
    everyones = pack.world.gather(list(zip(mine, answers, strict=True)))
    return rows, [everyones[row] for row in rows]


def with_adapter(pack: Pack, slot_id: int) -> PeftModel:
    """The plain model with the adapter that a slot has now."""
    from peft import get_peft_model, set_peft_model_state_dict

    slot = pack.slots[slot_id]
    if pack.generator is None:
        pack.generator = plain_model(pack)
    model = get_peft_model(pack.generator, slot.settings)
    weights = {name: tensor.to(pack.device) for name, tensor in slot.adapter.written().items()}
    set_peft_model_state_dict(model, weights)
    return model.requires_grad_(False).eval()


def plain_model(pack: Pack) -> PreTrainedModel:
    """The base as it is loaded for a trial by itself, on the pack's own weights."""
    model = load(pack.base.path, pack.dtype, pack.device).requires_grad_(False)
    packed = {name.replace(".base.", "."): weight for name, weight in pack.model.named_parameters()}
    for name, weight in model.named_parameters():
        same = packed.get(name)
        if same is not None and same.shape == weight.shape and same.dtype == weight.dtype:
            weight.data = same.data
    return model
