"""The benchmark of merged mixes: both ways cost the same, and its arguments are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.merge import Found, write_toy
from tests.conftest import ROOT, environment


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The benchmark as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.merge", *arguments],
        env=environment(cache),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_plain_search_has_what_merging_costs(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    small = ["train.steps=6", "mix.steps=6", "mix.candidates=6", "mix.trained=1"]
    done = run(cache, "--seeds", "2", "--json", str(file), *small)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert len(figures["runs"]) == 2
    for each in figures["runs"]:
        merged, searched = each["merge"], each["search"]
        a_trial = 3 * 6 * 16 + 150
        assert searched["passes"] == searched["trials"] * a_trial
        assert 0 <= merged["passes"] - searched["passes"] < a_trial
        assert merged["passes"] == 3 * 3 * 6 * 16 + 6 * 150 + merged["trials"] * a_trial
        assert merged["trials"] == 3 and each["compared"] == searched["trials"]
        assert sum(merged["mix"].values()) == pytest.approx(1, abs=1e-5)
    assert figures["runs"][0] != figures["runs"][1]
    assert "rank correlation of merged and trained loss" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["seed=4"], "seed=4: the benchmark sets this itself"),
        (["mix.method=search"], "mix.method=search: the benchmark sets this itself"),
        (["mix.trained=0"], "mix.trained   must be at least 1, got 0"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_message(
    cache: Path, arguments: list[str], message: str
) -> None:
    done = run(cache, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_the_toy_task_has_no_prompt_twice(tmp_path: Path) -> None:
    write_toy(tmp_path)
    rows = [
        json.loads(line)
        for file in sorted(tmp_path.glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert len(rows) == 720 == len({row["prompt"] for row in rows})


def test_the_winner_has_the_lowest_validation_loss() -> None:
    trials = [{"valid/loss": 0.5}, {"valid/loss": 0.2}, {"valid/loss": 0.3}]
    found = Found(7, trials, [{"a": 1.0}, {"a": 0.4}, {"a": 0.2}])
    assert found.record() == {"passes": 7, "trials": 3, "mix": {"a": 0.4}, "valid/loss": 0.2}
