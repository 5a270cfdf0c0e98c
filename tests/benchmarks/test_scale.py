"""Many trials: a simulated sweep in virtual time keeps to its schedule and reaches MLflow whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.rungs import survivors
from tests.conftest import ROOT, environment

TRIALS, GPUS = 200, 8
MOST_BYTES = 400_000
"""Of the driver's memory for a trial, everything that is held in the process included."""


@pytest.fixture(scope="module")
def swept(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The figures of one simulated sweep, and its folder."""
    folder = tmp_path_factory.mktemp("scale")
    line = [
        sys.executable,
        "-m",
        "benchmarks.scale",
        "--only",
        str(TRIALS),
        "--gpus",
        str(GPUS),
        "--folder",
        str(folder / "run"),
    ]
    line += ["--json", str(folder / "result.json"), "--patience", "400", "--sqlite-only"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment(cache))
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text(encoding="utf-8")), folder / "run"


def test_a_simulated_sweep_ends_every_trial_when_its_schedule_says(
    swept: tuple[dict[str, Any], Path],
) -> None:
    found, _ = swept
    counts = survivors(TRIALS, [2, 6, 18], 3)
    assert (found["finished"], found["stopped"]) == (counts[-1], TRIALS - counts[-1]) == (23, 177)
    # 64 seats: four waves of 2 steps, two of the next 4 for 67 trials, one of the last 12 for 23,
    # each step ten seconds.
    assert found["virtual_seconds"] == found["schedule_seconds"] == 4 * 20 + 2 * 40 + 120


def test_everything_of_a_simulated_sweep_is_in_mlflow(swept: tuple[dict[str, Any], Path]) -> None:
    from mlflow import MlflowClient

    found, folder = swept
    assert found["sqlite"]["left_events"] == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("scale")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = {
        int(run.data.tags["orchestrator.trial"]): run
        for run in runs
        if run.data.tags["orchestrator.trial"]
    }
    assert sorted(trials) == list(range(1, TRIALS + 1)) and len(runs) == TRIALS + 1
    assert Counter(run.info.status for run in trials.values()) == {"FINISHED": 23, "KILLED": 177}
    for index, run in trials.items():
        history = (
            client.get_metric_history(run.info.run_id, "train/loss") if index % 20 == 0 else []
        )
        steps = [metric.step for metric in history]
        if steps:
            assert sorted(set(steps)) == list(range(1, max(steps) + 1))
            assert max(steps) in (2, 6, 18) and (max(steps) == 18) == (
                run.info.status == "FINISHED"
            )
        assert "optim.lr" in run.data.params and run.data.metrics["valid/loss"] > 1


def test_a_trial_takes_a_bounded_part_of_the_drivers_memory(
    swept: tuple[dict[str, Any], Path],
) -> None:
    found, _ = swept
    assert 0 < (found["peak_mb"] - found["start_mb"]) * 1e6 / TRIALS < MOST_BYTES


def test_the_table_and_the_chart_hold_every_size(
    swept: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    from benchmarks import scale

    found, _ = swept
    larger = found | {
        "trials": 400,
        "peak_mb": found["peak_mb"] + 20,
        "driver_cpu_seconds": found["driver_cpu_seconds"] + 2,
    }
    text = scale.as_text([found, larger])
    assert text.splitlines()[0].split() == ["trials", "200", "400"] and text.endswith(
        "one more trial: 100 kB, 10.0 ms of the driver"
    )
    scale.draw([found, larger], tmp_path / "chart.svg")
    chart = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert chart.lstrip().startswith("<?xml") and 'href="http' not in chart
