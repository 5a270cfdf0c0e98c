"""Merged experts score what the dense merge of their updates scores, in a pack and one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from jobs.config import BaseModel, Scoring, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.trial_data import TrialData
from jobs.evaluation.evaluate import teacher_forced_scores
from jobs.model.loading import load
from jobs.model.merged_adapters import A, B, read_expert
from jobs.pack.mixtures import Mixtures, score_mixtures
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, Training
from tests.support.plain import CPU, make

SHARES = [
    {"one": 0.2, "two": 0.3, "three": 0.5},
    {"one": 1.0, "two": 0.0, "three": 0.0},
    {"one": 0.0, "two": 0.6, "three": 0.4},
    {"one": 0.4, "two": 0.4, "three": 0.2},
]


@pytest.fixture
def experts(base: BaseModel, rows: Path, tmp_path: Path) -> tuple[Trial, dict[str, str]]:
    """Three adapters of unlike ranks and scales, after some steps, and the trial of one of them."""
    folders = {}
    for seed, (name, rank) in enumerate([("one", 4), ("two", 2), ("three", 8)]):
        trial = dataclasses.replace(make(rows, rank=rank, lr=2e-2), seed=seed)
        training = Training(trial, base, World(), Hooks(lambda metrics, save: None), None)
        for _ in range(6):
            training.train_step()
        training.save(tmp_path / name)
        folders[name] = str(tmp_path / name / "model")
    return make(rows), folders


def dense_metrics(
    trial: Trial, base: BaseModel, folders: dict[str, str], shares: dict[str, float]
) -> dict[str, float]:
    """What the base scores with the weighted updates added to its own weights."""
    model = load(base.path, torch.float32, CPU).requires_grad_(False)
    for name, share in shares.items():
        expert = read_expert(Path(folders[name]))
        for tensor in expert.state:
            if tensor.endswith(A):
                layer = tensor.removeprefix("base_model.model.").removesuffix(A)
                b = expert.state[tensor.removesuffix(A) + B].double()
                update = share * expert.scale * b @ expert.state[tensor].double()
                model.get_parameter(f"{layer}.weight").add_(update.float())
    template = ChatTokenizer(base.path)
    valid = TrialData(trial, template, load_corpus(trial.data)).valid()
    return teacher_forced_scores(model, valid, template.eos_id, 2048).metrics()


@pytest.mark.parametrize("packed", [True, False])
def test_merged_experts_score_what_the_dense_merge_scores(
    base: BaseModel, experts: tuple[Trial, dict[str, str]], packed: bool
) -> None:
    trial, folders = experts
    told: list[tuple[int, int]] = []
    found = score_mixtures(
        base,
        trial,
        Mixtures(folders, SHARES, at_once=3),
        Scoring(),
        packed,
        lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (4, 4)
    expected = [dense_metrics(trial, base, folders, shares) for shares in SHARES]
    for each, dense in zip(found, expected, strict=True):
        assert each["valid/loss"] == pytest.approx(dense["valid/loss"], abs=2e-4)
        assert each["valid/exact_match"] == dense["valid/exact_match"]
    assert len({round(each["valid/loss"], 3) for each in found}) == len(SHARES)


def test_answers_of_merged_experts_are_the_same_in_a_pack_and_one_by_one(
    base: BaseModel, experts: tuple[Trial, dict[str, str]]
) -> None:
    trial, folders = experts
    scoring = Scoring(metric="valid/chrf", max_new_tokens=4)
    in_pack, alone = (
        score_mixtures(base, trial, Mixtures(folders, SHARES[:2], 2), scoring, packed)
        for packed in (True, False)
    )
    for each, other in zip(in_pack, alone, strict=True):
        assert each["valid/chrf"] == pytest.approx(other["valid/chrf"], abs=1e-3)
        assert each.keys() == other.keys()
