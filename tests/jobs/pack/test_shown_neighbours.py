"""Trials that are shown different numbers of neighbours train in one pack as each would alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jobs.config import BaseModel, Trial
from jobs.pack.evaluation import validate
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, Training
from tests.support.neighbours import many_answers, with_neighbours
from tests.support.packs import assert_two_workers_agree, open_pack, run
from tests.support.plain import make

STEPS = 12


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Trial]:
    """Trials of no, two and five neighbours, and one of another seed."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    rows = many_answers(tmp_path / "rows") / "train.jsonl"
    first = make(rows, batch_size=9, max_length=256)
    return {
        1: first,
        2: with_neighbours(first, 2),
        3: with_neighbours(first, 5),
        6: dataclasses.replace(with_neighbours(first, 5), seed=8),
    }


def alone(trial: Trial, base: BaseModel) -> tuple[list[float], float, int]:
    """Losses of a plain trial's steps, and its validation loss and exact answers."""
    nothing = Hooks(lambda metrics, save: None, lambda step, metrics: None, lambda text: None)
    training = Training(trial, base, World(), nothing, None)
    losses = [training.train_step()["train/loss"] for _ in range(STEPS)]
    scores = training.evaluate()
    return losses, scores["valid/loss"], int(scores["valid/exact_match"] * len(training.valid))


def test_a_pack_of_different_counts_trains_each_as_alone_over_several_epochs(
    base: BaseModel, trials: dict[int, Trial]
) -> None:
    pack = open_pack(base, trials)
    losses = run(pack, STEPS)
    scores = validate(pack, list(trials))
    ends = {number: alone(trial, base) for number, trial in trials.items()}
    for number, (expected, loss, _) in ends.items():
        assert losses[number] == pytest.approx(expected, abs=1e-4)
        assert scores[number].loss / scores[number].tokens == pytest.approx(loss, abs=1e-4)
    assert len({round(loss, 4) for _, loss, _ in ends.values()}) == 4, "each asks in its own way"


def test_frozen_layers_below_are_run_for_the_prompts_that_each_trial_shows(
    base: BaseModel, trials: dict[int, Trial]
) -> None:
    def upper(trial: Trial) -> Trial:
        adapter = dataclasses.replace(trial.adapter, layers=0.5)
        return dataclasses.replace(trial, adapter=adapter)

    chosen = {number: upper(trial) for number, trial in trials.items()}
    pack = open_pack(base, chosen)
    assert pack.hidden_cache.attached
    losses = run(pack, STEPS)
    for number, trial in chosen.items():
        assert losses[number] == pytest.approx(alone(trial, base)[0], abs=1e-4)


def test_two_workers_show_the_same_neighbours_as_one(
    base: BaseModel, trials: dict[int, Trial], tmp_path: Path
) -> None:
    assert_two_workers_agree(base, trials, tmp_path)
