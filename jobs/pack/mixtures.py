"""Scores of mixtures that nobody has trained: the experts of the sources are merged by the shares
of each mixture, and what comes out meets the validation rows (MergeMix, arXiv 2601.17858).

The merged adapters are slots of a pack that is never trained, so that many of them go through the
frozen base in common passes. A model that cannot be packed answers for one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from jobs.config import BaseModel, Scoring, Trial
from jobs.model.merged_adapters import Expert, merged, read_expert, total_rank
from jobs.pack.engine import NotPackable, Pack
from jobs.pack.evaluation import validate
from jobs.pack.generation import text_metrics
from jobs.pack.opening import enable_packing
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, Training

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """What is to be scored."""

    folders: dict[str, str]
    """The adapter of each source's expert: a local folder of PEFT's."""
    shares: list[dict[str, float]]
    """Of each mixture, by source."""
    at_once: int
    """Mixtures that may go through the base together."""


def score_mixtures(
    base: BaseModel,
    trial: Trial,
    mixtures: Mixtures,
    scoring: Scoring,
    packed: bool,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scores]:
    """The metrics of each mixture on the validation rows, as a trial would report them at a rung.
    `trial` is any expert's. Raises ValueError for experts that cannot be merged.
    """
    sources = sorted(mixtures.folders)
    experts = [read_expert(Path(mixtures.folders[name])) for name in sources]
    weights = [[shares.get(name, 0.0) for name in sources] for shares in mixtures.shares]
    trial = merged_trial(trial, total_rank(experts))
    pack = open_pack(base, trial, scoring) if packed else None
    if pack is None:
        return score_one_by_one(base, trial, scoring, experts, weights, tick)
    scores: list[Scores] = []
    for start in range(0, len(weights), mixtures.at_once):
        group = weights[start : start + mixtures.at_once]
        scores += score_group(pack, trial, experts, group)
        tick(len(scores), len(weights))
    return scores


def merged_trial(trial: Trial, rank: int) -> Trial:
    """The trial whose adapter has room for the merged experts, and scale 1."""
    adapter = dataclasses.replace(trial.adapter, rank=rank, alpha=float(rank), dropout=0.0)
    return dataclasses.replace(trial, adapter=adapter)


def open_pack(base: BaseModel, trial: Trial, scoring: Scoring) -> Pack | None:
    """A pack for merged adapters; None for a model that cannot be packed."""
    try:
        pack = Pack(base, trial)
        pack.scorings = {0: scoring}
        if enable_packing(pack, trial) is not None:
            return None
    except NotPackable:
        return None
    return pack


def score_group(
    pack: Pack, trial: Trial, experts: Sequence[Expert], weights: list[list[float]]
) -> list[Scores]:
    """The metrics of some mixtures, in common passes."""
    slots = list(range(1, len(weights) + 1))
    for slot, shares in zip(slots, weights, strict=True):
        pack.join(slot, trial)
        pack.slots[slot].adapter.read(merged(experts, shares))
    try:
        sums = validate(pack, slots)
        texts, failures = text_metrics(pack, slots)
    finally:
        for slot in slots:
            pack.leave(slot)
    if failures:
        raise ValueError(next(iter(failures.values())))
    return [sums[slot].metrics() | texts[slot] for slot in slots]


@torch.no_grad()
def score_one_by_one(
    base: BaseModel,
    trial: Trial,
    scoring: Scoring,
    experts: Sequence[Expert],
    weights: list[list[float]],
    tick: Callable[[int, int], None],
) -> list[Scores]:
    """The metrics of each mixture by itself, in the plain model with one adapter."""
    from peft import set_peft_model_state_dict

    training = Training(trial, base, World(), Hooks(lambda metrics, save: None), None, scoring)
    scores = []
    for shares in weights:
        state = {
            name: weight.to(training.device) for name, weight in merged(experts, shares).items()
        }
        set_peft_model_state_dict(training.model, state)
        scores.append(training.evaluate())
        tick(len(scores), len(weights))
    return scores
