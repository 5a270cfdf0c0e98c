"""Whole commands in storages of their own: the same seed twice, any name of a folder, a store that
was moved away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.finished_sweeps import champion, decided, journal, registry

BOTH = "sweep.space={lr: {path: optim.lr, type: loguniform, low: 0.002, high: 0.01}, rank: {path: adapter.rank, type: grid, values: [4, 8]}}"


@pytest.mark.slow
def test_two_fresh_runs_of_one_seed_give_the_same_trials_and_scores(
    command: Any, tmp_path: Path
) -> None:
    # Ten steps on random weights beat no baseline: whoever is first becomes the champion.
    steps = ("train.steps=10", "train.eval_every=5", "registry.beat=[champion]")
    arguments = (BOTH, *steps, f"storage={tmp_path}", "fresh=true")
    scores = []
    for alias in ("champion", None):
        done = command(*arguments)
        assert done.code == 0, done.err
        assert done.result["model"]["alias"] == alias
        if alias is not None:
            other_program_takes_the_alias(tmp_path, done.result["model"]["name"])
        reports = [e for e in journal(tmp_path) if e["kind"] == "report"]
        measured = ("valid/loss", "valid/exact_match", "test/exact_match")
        scores.append(
            sorted(
                (e["trial"], e["step"], key, e["metrics"][key])
                for e in reports
                for key in measured
                if key in e["metrics"]
            )
        )
        scores[-1].append(done.result["best"]["params"]["optim.lr"])
    assert scores[0] == scores[1]
    assert (
        "cannot be judged on these rows" in decided(tmp_path)[-1]
        and "base.json" in decided(tmp_path)[-1]
    )
    assert champion(tmp_path, done.result["model"]["name"]) == 2


def other_program_takes_the_alias(storage: Path, name: str) -> None:
    """Register a model that is not of this project, and make it the champion."""
    version = registry(storage).create_model_version(name, storage.as_uri()).version
    registry(storage).set_registered_model_alias(name, "champion", version)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my%20runs", 'it\'s "50% off" [1] #2?é'])
def test_a_storage_may_have_any_name(command: Any, tmp_path: Path, name: str) -> None:
    done = command("train.steps=4", "train.eval_every=2", f"storage={tmp_path / name}")
    assert done.code == 0, done.err
    asked = command(
        "job=predict",
        f"storage={tmp_path / name}",
        f"model_uri={done.result['model']['uri']}",
        "prompt=alpha 3",
    )
    assert asked.code == 0, asked.err
    assert [folder.name for folder in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_a_store_that_was_moved_away_is_written_again_from_the_journal(
    command: Any, tmp_path: Path
) -> None:
    arguments = ("train.steps=10", "train.eval_every=5", f"storage={tmp_path}")
    first = command(*arguments)
    assert first.code == 0, first.err
    (tmp_path / "mlflow.db").rename(tmp_path / "old.db")
    trained = [e for e in journal(tmp_path) if e["kind"] == "metrics" and e["trial"]]
    again = command(*arguments)
    assert again.code == 0, again.err
    assert again.result["model"] == first.result["model"]
    assert [e for e in journal(tmp_path) if e["kind"] == "metrics" and e["trial"]] == trained
    history = registry(tmp_path).get_metric_history(again.result["best"]["run_id"], "train/loss")
    assert [point.step for point in history] == list(range(1, 11))
