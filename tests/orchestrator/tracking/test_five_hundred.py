"""MLflow with a sweep of 500 trials: each trial is found by its tags and stands below its sweep, and
what the comparison page asks for comes at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.mlflow_store import connect
from tests.support.journals import write_sweep
from tests.support.stores import carry

COUNT = 500
CALM_SECONDS = 5.0
"""Far above what is measured (docs/speed.md), and far below what makes a page unusable."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_five_hundred_trials_are_found_and_compared_at_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    if kind == "postgres":
        uri = request.getfixturevalue("postgres")
    folder = write_sweep(tmp_path / "lora-500", COUNT)
    store = connect(uri, "five hundred", tmp_path / "artifacts")
    began = time.monotonic()
    carry(folder, store, 1200)
    written = time.monotonic() - began
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("five hundred")
    assert experiment is not None
    times: dict[str, float] = {"written": written}

    def timed(name: str, ask: Callable[[], Any]) -> Any:
        before = time.monotonic()
        answer = ask()
        times[name] = time.monotonic() - before
        return answer

    (parent,) = timed(
        "the sweep's run by its name",
        lambda: client.search_runs(
            [experiment.experiment_id], "attributes.run_name = 'lora-500'", max_results=2
        ),
    )
    children = timed(
        "its trials, best first",
        lambda: client.search_runs(
            [experiment.experiment_id],
            f"tags.mlflow.parentRunId = '{parent.info.run_id}'",
            max_results=COUNT,
            order_by=["metrics.`valid/exact_match` DESC"],
        ),
    )
    assert len(children) == COUNT
    names = [child.info.run_name or "" for child in children]
    assert sorted(names) == [f"trial-{index:03d}" for index in range(1, COUNT + 1)]
    found = timed(
        "one trial by its tag",
        lambda: client.search_runs([experiment.experiment_id], "tags.trial = '250'", max_results=2),
    )
    assert [run.info.run_name for run in found] == ["trial-250"]
    histories = timed(
        "ten learning curves",
        lambda: [
            client.get_metric_history(child.info.run_id, "valid/exact_match")
            for child in children[:10]
        ],
    )
    assert all(histories)
    print({name: round(seconds, 2) for name, seconds in times.items()})
    del times["written"]
    assert max(times.values()) < CALM_SECONDS, times
