"""A fleet's table: a row for each task, on the screen, on the page and in fleet.json."""

from __future__ import annotations

from pathlib import Path

from orchestrator.fleet import page
from orchestrator.fleet.fleet_result import HEADINGS, FleetResult, TaskRow, row_of, table, text
from tests.support.results import outcome

BASELINES = {
    "most_frequent": {"metrics": {"test/exact_match": 0.1}},
    "nearest_prompt": {"metrics": {"test/exact_match": 0.3}},
}


def fleet(*rows: TaskRow, state: str = "finished") -> FleetResult:
    return FleetResult(
        "lora-fleet-1", state, list(rows), 75.0, "sqlite:///x", "python -m o +fleet=x"
    )


def broken() -> TaskRow:
    return TaskRow("fr", None, "failed", error="fr/train.jsonl: line 3 is no JSON <b>")


def test_a_row_has_base_best_baseline_tuned_and_interval() -> None:
    row = row_of("de", 2.0, outcome(baselines=BASELINES))
    assert (row.base, row.baseline, row.baseline_name) == (0.0, 0.3, "nearest_prompt")
    assert (row.score, row.low, row.high) == (0.412, 0.379, 0.446)
    assert (row.model, row.alias) == ("models:/icd10-tiny/7", "champion")
    assert row.cells()[2:] == [
        "0.000",
        "0.300 nearest_prompt",
        "0.412",
        "0.379..0.446",
        "2+3/6",
        "icd10-tiny/7 champion",
    ]


def test_of_a_metric_where_less_is_better_the_lowest_baseline_is_the_best() -> None:
    metrics = {"test/loss": 0.5, "test/loss_low": 0.4, "test/loss_high": 0.6}
    baselines = {
        name: {"metrics": {"test/loss": value}} for name, value in (("a", 1.0), ("b", 2.0))
    }
    row = row_of(
        "de",
        1.0,
        outcome(
            metric="test/loss",
            maximise=False,
            best={"trial": 1, "params": {}, "metrics": metrics},
            baselines=baselines,
        ),
    )
    assert (row.baseline, row.baseline_name, row.score) == (1.0, "a", 0.5)


def test_columns_stand_below_their_headings() -> None:
    lines = table([row_of("de", 1.0, outcome()), broken()])
    assert len(lines) == 3 and all(heading in lines[0] for heading in HEADINGS)
    assert lines[1].index("0.412") == lines[0].index("tuned")
    assert lines[2].endswith("failed")


def test_the_last_screen_says_why_a_task_failed_and_what_goes_on() -> None:
    shown = text(fleet(row_of("de", 1.0, outcome()), broken(), state="failed"))
    assert "2 tasks, 1 finished, 1 failed" in shown
    assert "fr: fr/train.jsonl: line 3 is no JSON" in shown
    assert "go on   python -m o +fleet=x" in shown
    assert "serve" not in shown


def test_a_model_without_the_alias_says_why() -> None:
    model = {"name": "icd10-tiny", "version": 7, "alias": None, "uri": "models:/icd10-tiny/7"}
    row = row_of("de", 1.0, outcome(model=model, decision="not better than the base"))
    assert row.cells()[-1] == "icd10-tiny/7, no alias"
    assert "why     de: not better than the base" in text(fleet(row))


def test_the_page_escapes_what_others_wrote_and_links_to_the_tasks_report(tmp_path: Path) -> None:
    folder = tmp_path / "fleets" / "x"
    folder.mkdir(parents=True)
    row = row_of("de", 1.0, outcome())
    row.report = str(tmp_path / "sweeps" / "lora-de-1" / "report.html")
    written = page.write_page(folder, fleet(row, broken())).read_text(encoding="utf-8")
    assert "&lt;b&gt;" in written and "<b>" not in written
    assert 'href="../../sweeps/lora-de-1/report.html"' in written
    assert written.count("<tr") == 3


def test_the_record_holds_every_row() -> None:
    record = fleet(row_of("de", 1.0, outcome()), broken()).as_json()
    assert next(iter(record)) == "version"
    assert [row["task"] for row in record["tasks"]] == ["de", "fr"]
    assert record["tasks"][1]["error"].startswith("fr/train.jsonl")
