"""Trials of several tasks in one pack: each ends as in a pack of its own task, is stopped by its own
task's losses, scored by its own task's metric, and kept in its own task's place.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from jobs.config import BaseModel, Scoring, Trial
from jobs.evaluation import registry
from jobs.files.checkpoints import CheckpointStore
from jobs.pack.evaluation import validate
from jobs.pack.generation import text_metrics
from jobs.pack.loop import WatchedTasks, WatchedTrials
from jobs.pack.loss_curves import Course
from jobs.pack.task_numbers import index_of, key_of, task_of
from jobs.workers.task_checkpoints import TaskCheckpoints
from tests.support.packs import open_pack, run, varied

ROUNDING = 1e-3
"""A product of another size is rounded otherwise, and AdamW makes more of it at each step."""


@pytest.fixture
def other_rows(tmp_path: Path) -> Path:
    """Rows of another task: other questions, other answers, other lengths."""
    file = tmp_path / "other.jsonl"
    lines = [
        {"prompt": f"say number {i % 7} in words {'y' * (i % 5)}{i}", "completion": "xyz"[i % 3]}
        for i in range(90)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def of_two_tasks(rows: Path, other: Path) -> dict[int, Trial]:
    """Trials of two tasks, by their keys."""
    first = {key_of(1, number): trial for number, trial in varied(rows).items()}
    second = {
        key_of(2, number): dataclasses.replace(
            trial, data=dataclasses.replace(trial.data, instruction="Which word?")
        )
        for number, trial in list(varied(other).items())[:2]
    }
    return first | second


def test_a_key_tells_the_task_and_the_trials_number_there() -> None:
    for task, index in ((0, 1), (1, 1), (3, 10_100_001), (64, 5)):
        assert (task_of(key_of(task, index)), index_of(key_of(task, index))) == (task, index)
    assert task_of(-1) == 0, "a pack's own number is no task's"


def test_trials_of_two_tasks_end_as_in_packs_of_their_own(
    base: BaseModel, rows: Path, other_rows: Path
) -> None:
    trials = of_two_tasks(rows, other_rows)
    together = open_pack(base, trials)
    losses = run(together, 20)
    scores = validate(together, list(trials))
    for task in (1, 2):
        own = {key: trial for key, trial in trials.items() if task_of(key) == task}
        alone = open_pack(base, own)
        expected = run(alone, 20)
        expected_scores = validate(alone, list(own))
        for key in own:
            assert losses[key] == pytest.approx(expected[key], rel=ROUNDING, abs=ROUNDING)
            assert scores[key].loss == pytest.approx(expected_scores[key].loss, rel=ROUNDING)
            assert scores[key].rows == expected_scores[key].rows
            learned = together.slots[key].adapter.weights.data
            expected_weights = alone.slots[key].adapter.weights.data
            apart = torch.linalg.norm(learned - expected_weights)
            assert apart <= 1e-2 * torch.linalg.norm(expected_weights)


def test_rows_of_two_tasks_are_never_taken_for_one_another_by_the_hidden_cache(
    base: BaseModel, rows: Path, other_rows: Path
) -> None:
    half = dataclasses.replace(next(iter(varied(rows).values())).adapter, layers=0.5)
    trials = {
        key: dataclasses.replace(trial, adapter=half)
        for key, trial in of_two_tasks(rows, other_rows).items()
    }
    together = open_pack(base, trials)
    assert together.hidden_cache.attached, "layers below the adapters run once for all trials"
    losses = run(together, 10)
    for key, trial in trials.items():
        alone = open_pack(base, {key: trial})
        expected = run(alone, 10)[key]
        assert losses[key] == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


def test_answers_are_scored_by_the_metric_of_their_own_task(
    base: BaseModel, rows: Path, other_rows: Path
) -> None:
    trials = of_two_tasks(rows, other_rows)
    pack = open_pack(base, trials)
    pack.scorings = {
        1: Scoring(metric=registry.DEFAULT),
        2: Scoring(metric=registry.key(registry.CHRF), rows=3),
    }
    run(pack, 3)
    scores, failures = text_metrics(pack, list(trials))
    assert failures == {}
    for key in trials:
        if task_of(key) == 1:
            assert scores[key] == {}, "one pass tells exact match"
        else:
            assert scores[key][registry.NUM_ANSWERED] == 3
            assert registry.key(registry.CHRF) in scores[key]


def test_losses_end_trials_of_their_own_task_alone() -> None:
    falling = [2.0, *[1.0 - 0.02 * step for step in range(10)]]
    high = [2.0, *[1.9 - 0.001 * step for step in range(10)]]
    courses = {key_of(1, index): Course(falling, 11, 40, "rows") for index in (1, 2, 3)}
    courses |= {key_of(2, index): Course(high, 11, 40, "rows") for index in (1, 2)}
    watched = WatchedTrials(3, 2)
    behind = watched.ended(courses)
    assert list(behind) == [key_of(2, 1), key_of(2, 2)], "as one sweep they would be left behind"
    tasks = WatchedTasks({1: watched, 2: watched})
    assert tasks.ended(courses) == {}
    assert tasks.watches(key_of(1, 3)) and not tasks.watches(key_of(1, 4))
    assert not tasks.watches(key_of(3, 1)), "a task that watches none"


def test_a_diverged_trial_ends_and_the_other_tasks_only_trial_goes_on() -> None:
    diverged = [2.0, *[4.0] * 10]
    courses = {
        key_of(1, 1): Course(diverged, 11, 40, "rows"),
        key_of(1, 2): Course([2.0, *[1.0] * 10], 11, 40, "rows"),
        key_of(2, 1): Course(diverged, 11, 40, "rows"),
    }
    tasks = WatchedTasks({1: WatchedTrials(2, 2), 2: WatchedTrials(1, 2)})
    ended = tasks.ended(courses)
    assert list(ended) == [key_of(1, 1)], "of the trials of a task that train one goes on"


def test_checkpoints_lie_in_the_place_of_their_own_task(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    pack = open_pack(base, {key_of(2, 1): next(iter(varied(rows).values()))})
    run(pack, 1)
    stores = {
        task: CheckpointStore(str(tmp_path / f"sweep-{task}" / "train"), "valid/loss", False)
        for task in (1, 2)
    }
    for task in stores:
        (tmp_path / f"sweep-{task}").mkdir()
    shelves = TaskCheckpoints(stores)
    key = key_of(2, 1)
    place = shelves.put(key, 1, pack.slots[key].snapshot())
    assert (
        place
        == shelves.at(key, 1)
        == str(tmp_path / "sweep-2" / "train" / "trial-001" / "step-000001")
    )
    assert stores[2].steps(1) == [1] and stores[1].steps(1) == []
