"""A fleet from its command to its table: two tasks in one pack with a registered model each; others
whose rows are broken, whose losses are not finite or whose metric function fails end alone, and the
same command goes on where it stood.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.journal import Journal
from tests.support.finished_sweeps import champion
from tests.support.fleets import as_setting, write_task
from tests.support.trials import SHORT_SWEEP

FLOAT = "train.dtype=float32"
OWN_ROWS = "data.folder=null"
"""No rows of all tasks."""
OVERFLOW = {"alpha": 1e38}
"""Whatever such an adapter multiplies is not finite."""
PICKY = """
def score(answers, references):
    for answer in answers:
        if answer not in ("", "A", "B", "C"):
            raise KeyError("no letter")
    return 1.0
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """The tasks as they are typed; the rows of `broken` are no JSON."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder / "one", 0)
    write_task(folder / "two", 1, 180, "!")
    write_task(folder / "wild", 2)
    broken = write_task(folder / "broken", 1) / "train.jsonl"
    broken.write_text(broken.read_text(encoding="utf-8") + "{no row\n", encoding="utf-8")
    write_task(folder / "picky", 2, 90)
    (folder / "picky_metric.py").write_text(PICKY, encoding="utf-8")
    return {
        "one": {"folder": str(folder / "one"), "weight": 2},
        "two": {"folder": str(folder / "two"), "metric": "loss", "model": "Second"},
        "wild": {"folder": str(folder / "wild"), "adapter": OVERFLOW},
        "picky": {"folder": str(folder / "picky"), "metric": "picky_metric:score"},
        "broken": {"folder": str(folder / "broken")},
    }


@pytest.fixture(scope="module")
def trained(command: Any, storage: Path, tasks: dict[str, dict[str, object]]) -> Any:
    """The fleet's first command."""
    folder = Path(str(tasks["one"]["folder"])).parent
    return command(
        *SHORT_SWEEP, FLOAT, OWN_ROWS, as_setting(tasks), f"storage={storage}", cwd=folder
    )


def rows_of(done: Any) -> dict[str, Any]:
    """The rows of a fleet's table by task."""
    return {row["task"]: row for row in done.result["tasks"]}


def reports(storage: Path, sweep: str) -> dict[tuple[int, int], dict[str, float]]:
    """What the trials of a sweep have reported, by trial and step."""
    return {
        (index, step): metrics
        for index, record in Journal(storage / "sweeps" / sweep).records().items()
        for step, metrics in record.reports.items()
    }


def test_each_task_has_a_row_a_verdict_and_a_registered_model(trained: Any, storage: Path) -> None:
    assert trained.code == 1, trained.err
    rows = rows_of(trained)
    assert {name: row["state"] for name, row in rows.items()} == {
        "one": "finished",
        "two": "finished",
        "wild": "failed",
        "picky": "failed",
        "broken": "failed",
    }, trained.err
    for name, metric in (("one", "test/accuracy"), ("two", "test/loss")):
        row = rows[name]
        assert row["metric"] == metric and row["trials"]["total"] == 3
        assert row["low"] <= row["score"] <= row["high"] and row["base"] is not None
    assert rows["one"]["model"].startswith("models:/one-tiny/")
    assert rows["two"]["model"].startswith("models:/Second/")
    assert champion(storage, "Second") and champion(storage, "one-tiny")
    record = json.loads(next((storage / "fleets").glob("*/fleet.json")).read_text())
    assert record["tasks"] == trained.result["tasks"]


def test_a_task_alone_is_ended_by_its_rows_its_losses_or_its_function(trained: Any) -> None:
    rows = rows_of(trained)
    assert "train.jsonl" in rows["broken"]["error"] and rows["broken"]["sweep"] is None
    assert "failed for the same reason" in rows["wild"]["error"]
    assert "picky_metric:score raised KeyError: 'no letter'" in rows["picky"]["error"]
    assert rows["wild"]["model"] is rows["picky"]["model"] is None
    assert "Traceback" not in trained.err


def test_runs_of_all_tasks_stand_below_the_fleets_run(trained: Any, storage: Path) -> None:
    database = sqlite3.connect(storage / "mlflow.db")
    tags = "select run_uuid, value from tags where key = ?"
    names = dict(database.execute("select run_uuid, name from runs"))
    parents = dict(database.execute(tags, ("mlflow.parentRunId",)))
    of_task = dict(database.execute(tags, ("fleet.task",)))
    assert sorted(of_task.values()) == ["one", "picky", "two", "wild"]
    fleets = {parents[run] for run in of_task}
    assert len(fleets) == 1 and names[fleets.pop()] == trained.result["fleet"]
    experiments = set(database.execute("select experiment_id from runs"))
    assert len(experiments) == 1, "one list shows them all"


def test_the_page_has_a_row_for_each_task(trained: Any) -> None:
    page = Path(trained.result["report"]).read_text(encoding="utf-8")
    for row in trained.result["tasks"]:
        assert row["task"] in page
    assert '<tr class="failed">' in page and "job=serve" in page


def test_the_same_command_goes_on_and_finished_tasks_answer_at_once(
    trained: Any, command: Any, storage: Path, tasks: dict[str, dict[str, object]]
) -> None:
    before = rows_of(trained)
    write_task(Path(str(tasks["broken"]["folder"])), 1)
    left = {name: entry for name, entry in tasks.items() if name not in ("wild", "picky")}
    done = command(*SHORT_SWEEP, FLOAT, OWN_ROWS, as_setting(left), f"storage={storage}")
    assert done.code == 0, done.err
    rows = rows_of(done)
    for name in ("one", "two"):
        assert f"{before[name]['sweep']} is finished; this is its result" in done.err
        assert rows[name]["model"] == before[name]["model"]
    assert rows["broken"]["state"] == "finished" and rows["broken"]["score"] is not None


@pytest.mark.slow
def test_each_trial_scores_as_in_a_sweep_of_its_own(
    trained: Any, command: Any, tmp_path: Path, tasks: dict[str, dict[str, object]], storage: Path
) -> None:
    rows = rows_of(trained)
    for name in ("one", "two"):
        metric = [] if name == "one" else ["sweep.metric=loss"]
        alone = command(
            *SHORT_SWEEP,
            FLOAT,
            *metric,
            f"data.folder={tasks[name]['folder']}",
            f"sweep.name=lora-{name}",
            f"storage={tmp_path}",
        )
        assert alone.code == 0, alone.err
        together = reports(storage, rows[name]["sweep"])
        expected = reports(tmp_path, alone.result["sweep"])
        assert rows[name]["sweep"] == alone.result["sweep"], "the same sweep, wherever it trains"
        assert together.keys() == expected.keys()
        for key, metrics in expected.items():
            for each in ("train/loss", "valid/loss", "valid/exact_match"):
                if each in metrics:
                    assert together[key][each] == pytest.approx(metrics[each], rel=1e-3, abs=1e-4)
        key = rows[name]["metric"]
        assert rows[name]["score"] == pytest.approx(alone.result["best"]["metrics"][key], rel=1e-3)
