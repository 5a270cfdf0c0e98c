"""Text metrics in a pack are those of a trial by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jobs.config import BaseModel, Scoring
from jobs.evaluation import registry
from jobs.pack.evaluation import validate
from jobs.pack.generation import plain_model, text_metrics
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, finetune
from tests.support.packs import open_pack, varied


def test_a_pack_scores_answers_as_a_trial_by_itself_does(rows: Path, base: BaseModel) -> None:
    trials = {
        number: dataclasses.replace(
            trial, train=dataclasses.replace(trial.train, steps=40, eval_every=20), index=number
        )
        for number, trial in list(varied(rows).items())[:2]
    }
    scoring = Scoring(metric=registry.key(registry.CHRF), rows=7)
    alone: dict[int, list[dict[str, float]]] = {number: [] for number in trials}
    for number, trial in trials.items():
        hooks = Hooks(lambda told, save, number=number: alone[number].append(told))
        finetune(trial, base, hooks, World(), scoring=scoring)
    pack = open_pack(base, trials)
    pack.scorings = {0: scoring}
    for rung in range(2):
        for _ in range(20):
            pack.step(list(trials))
        sums, (texts, _) = validate(pack, list(trials)), text_metrics(pack, list(trials))
        for number in trials:
            told = sums[number].metrics() | texts[number]
            expected = alone[number][rung]
            assert told.keys() <= expected.keys()
            assert {registry.key(name) for name in (registry.CHRF, registry.BITS_PER_BYTE)} < {
                *told
            }
            for name, value in told.items():
                assert value == pytest.approx(expected[name], rel=1e-3, abs=1e-3), (rung, name)
    counts = [report[registry.NUM_ANSWERED] for report in alone[next(iter(trials))]]
    assert counts[0] == 7 < counts[1]


def test_a_pack_without_a_text_metric_generates_nothing(rows: Path, base: BaseModel) -> None:
    trial = next(iter(varied(rows).values()))
    pack = open_pack(base, {1: trial})
    assert text_metrics(pack, [1]) == ({1: {}}, {})
    assert pack.generator is None


def test_the_model_that_answers_reads_the_packs_own_weights(rows: Path, base: BaseModel) -> None:
    pack = open_pack(base, varied(rows))
    packed = {weight.data_ptr() for weight in pack.model.parameters()}
    matrices = [weight for weight in plain_model(pack).parameters() if weight.ndim > 1]
    assert matrices
    assert all(weight.data_ptr() in packed for weight in matrices)
