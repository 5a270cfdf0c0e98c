"""Real sweeps that a budget ends: what they have is judged and registered, and a larger budget goes
on from there.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.budget import tolerance_seconds
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.storage.journal import Journal
from tests.support.trials import SHORT_SWEEP

pytestmark = pytest.mark.slow
LONG = (*SHORT_SWEEP[:2], *SHORT_SWEEP[4:], "sweep.metric=loss", "train.batch_size=8")
"""Three trials, without their length."""


def result_of(storage: Path) -> dict[str, Any]:
    """The result of the only sweep of a storage."""
    return json.loads(next(storage.glob("sweeps/*/result.json")).read_text())


def seconds_to_first_score(storage: Path) -> float:
    """From the sweep's first event to the first report of any trial."""
    events = list(Journal(next(storage.glob("sweeps/*"))).events())
    first = next(event["t"] for event in events if event["kind"] == "report")
    return (first - events[0]["t"]) / 1000


def test_a_budget_of_a_minute_ends_a_sweep_and_registers_a_model(
    command: Any, tmp_path: Path
) -> None:
    endless = ("train.steps=200000", "train.eval_every=20", "budget.minutes=1")
    done = command(*LONG, *endless, f"storage={tmp_path}")
    assert done.code == 0, done.err
    result = result_of(tmp_path)
    assert result["state"] == "finished" and result["model"]["version"] == 1
    assert result["budget"]["reached"] == "minutes"
    # One trial always comes to its first rung, however slow the machine is at this moment.
    needed = max(60.0, 2 * seconds_to_first_score(tmp_path))
    assert result["seconds"]["total"] <= needed + tolerance_seconds(needed)
    assert "budget.minutes=1" in done.err and "Traceback" not in done.err
    (shown,) = LocalRuns(str(tmp_path)).listed()
    assert shown["state"] == "finished" and shown["spent"].endswith(" min")
    assert float(shown["spent"].split()[0]) == pytest.approx(
        result["spent"]["spent/minutes"], rel=0.05
    )


def test_a_larger_budget_goes_on_and_counts_what_was_spent(command: Any, tmp_path: Path) -> None:
    length = ("train.steps=60", "train.eval_every=10", "final.count=0", f"storage={tmp_path}")
    first = command(*LONG, *length, "budget.tokens=12000")
    assert first.code == 0, first.err
    cut = result_of(tmp_path)
    assert cut["budget"]["reached"] == "tokens" and cut["model"]["version"] == 1
    assert any("would likely finish the sweep" in line for line in cut["budget"]["lines"])
    again = command(*LONG, *length, "budget.tokens=12000")
    assert again.code == 0 and "is finished; this is its result" in again.err
    whole = command(*LONG, *length, "budget.tokens=10000000")
    assert whole.code == 0, whole.err
    result = result_of(tmp_path)
    assert result["sweep"] == cut["sweep"] and result["budget"]["reached"] is None
    assert result["trials"]["finished"] >= 1
    spent = [result["spent"]["spent/tokens"], cut["spent"]["spent/tokens"]]
    assert spent[0] > spent[1] > 0
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        told = database.execute(
            "select max(value) from metrics where key = 'spent/tokens'"
        ).fetchone()[0]
        assert told == pytest.approx(spent[0])
        twice = "select key, step from metrics where key = 'train/loss' group by run_uuid, step having count(*) > 1"
        assert database.execute(twice).fetchall() == []


def test_a_sweep_whose_trials_all_fail_alike_stops_after_k(command: Any, tmp_path: Path) -> None:
    rates = "[600.0, 700.0, 800.0, 900.0, 950.0, 990.0]"
    space = f"sweep.space={{rate: {{path: optim.lr, type: grid, values: {rates}}}}}"
    # A decay of 900 times 1 turns the weights over and makes them 899 times larger at each step.
    extreme = ("optim.max_norm=1e30", "optim.warmup_steps=0", "optim.weight_decay=1")
    stops = ("sweep.give_up_after=2", "sweep.max_concurrent=1", "train.steps=40")
    done = command(space, *extreme, *stops, "train.eval_every=40", f"storage={tmp_path}")
    assert done.code == 1, done.err
    assert "the first 2 trials failed for the same reason" in done.result["error"]
    assert done.result["trials"]["failed"] == 2 < done.result["trials"]["total"] == 6
