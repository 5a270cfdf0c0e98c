"""The report of sweeps that never ran: every part of it, and what is missing, torn or hostile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report import metric_text
from orchestrator.report.content import content, pareto
from orchestrator.report.importance import importances
from orchestrator.report.page import write_report
from orchestrator.report.sweep_data import read_sweep
from tests.support.journals import write_sweep

LIMIT_BYTES = 2_000_000


def text_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("count", [1, 8, 100, 500])
def test_a_report_stays_below_two_megabytes_and_asks_for_nothing(
    count: int, tmp_path: Path
) -> None:
    page = text_of(write_sweep(tmp_path / "a", count, faulty=count > 8))
    assert len(page.encode()) < LIMIT_BYTES
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert len(data_of(page)["trials"]) == count


def test_prompts_and_errors_cannot_add_markup(tmp_path: Path) -> None:
    page = text_of(write_sweep(tmp_path / "a", 60, faulty=True))
    assert "&lt;script&gt;document.title" in page
    assert "<script>document.title" not in page
    assert "<b>wanted</b>" not in page
    assert page.count("</script>") == 3


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 4, judged=False)
    page = text_of(folder)
    assert "It was not judged on the test split." in page
    assert "No answers are kept of this sweep" in page
    (folder / "journal.jsonl").write_text("", encoding="utf-8")
    assert "No trial has started yet" in text_of(folder)
    (folder / "journal.jsonl").write_bytes(b'{"torn\n\xff\xfe\n[1]\n{"kind": "report"}\n')
    (folder / "result.json").write_text('{"best": [], "slices": 3, "baselines": "x"}')
    assert "No trial has started yet" in text_of(folder)


def test_values_that_are_no_numbers_leave_the_rest_of_the_page_whole(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 80, faulty=True)
    page = text_of(folder)
    assert "NaN" not in json.dumps(data_of(page))
    assert any(alert["kind"] == "diverged" for alert in data_of(page)["alerts"])


def test_a_sweep_whose_trials_all_failed_names_the_cause(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 1, judged=False)
    lines = (folder / "journal.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"report"' not in line and '"metrics"' not in line]
    failed = '{"t": 1, "kind": "end", "trial": 1, "state": "failed", "error": "disk full"}'
    (folder / "journal.jsonl").write_text("\n".join([*kept, failed]) + "\n")
    page = text_of(folder)
    assert "None of 1 trials has a value" in page and "disk full" in page


def test_importance_finds_the_knob_that_decides(tmp_path: Path) -> None:
    shares = importances(read_sweep(write_sweep(tmp_path / "a", 100)))
    assert max(shares, key=lambda path: shares[path]) == "optim.lr"
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importances(read_sweep(write_sweep(tmp_path / "b", 3))) == {}


def test_the_response_to_a_share_falls_where_the_source_harms(tmp_path: Path) -> None:
    mix = {m["source"]: m for m in content(read_sweep(write_sweep(tmp_path / "a", 200)))["mix"]}
    bins = mix["titles"]["effect"]["bins"]
    assert bins[0][2] > bins[-1][2]
    bins = mix["terms"]["effect"]["bins"]
    assert bins[0][2] < bins[-1][2]


def test_the_pareto_front_holds_what_nothing_cheaper_beats() -> None:
    points = [(1.0, 0.1, 1), (2.0, 0.3, 2), (2.0, 0.2, 3), (3.0, 0.3, 4), (4.0, 0.5, 5)]
    assert pareto(points, maximise=True) == [1, 2, 5]
    assert pareto(points, maximise=False) == [1]


def test_slices_of_the_result_are_shown_in_any_of_their_forms(tmp_path: Path) -> None:
    slices = {
        "source": {"terms": {"metrics": {"test/exact_match": 0.4}, "rows": 10}, "titles": 0.2},
        "label": [{"name": "A00", "value": 0.5, "low": 0.1, "high": 0.9, "n": 4}, "odd"],
    }
    shown = content(read_sweep(write_sweep(tmp_path / "a", 4, slices=slices)))["slices"]
    assert [entry["column"] for entry in shown] == ["source", "label"]
    assert [row["value"] for row in shown[0]["rows"]] == [0.4, 0.2]
    assert shown[1]["rows"] == [{"name": "A00", "value": 0.5, "low": 0.1, "high": 0.9, "rows": 4}]


def test_wrong_answers_come_by_kind_with_examples(tmp_path: Path) -> None:
    errors = content(read_sweep(write_sweep(tmp_path / "a", 8)))["errors"]
    kinds = {entry["kind"]: entry for entry in errors}
    assert {"no answer", "breaks off", "holds the right answer and more"} <= kinds.keys()
    assert all(1 <= len(entry["examples"]) <= 4 for entry in errors)
    assert errors[0]["count"] == max(entry["count"] for entry in errors)


def test_a_metric_that_falls_is_ranked_from_below(tmp_path: Path) -> None:
    data = read_sweep(write_sweep(tmp_path / "a", 20, metric="valid/loss", judged=False))
    scores = [trial.score for trial in data.ranked()]
    assert scores == sorted(scores, key=lambda score: score or 0.0)
    assert content(data)["unit"] == "nats per token"


def rewritten(folder: Path, **changed: Any) -> None:
    """The sweep's start with other fields, and no end."""
    file = folder / "journal.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [event for event in events if event["kind"] != "sweep_end"]
    kept = [event | changed if event["kind"] == "sweep" else event for event in kept]
    file.write_text("".join(json.dumps(event) + "\n" for event in kept))


def test_a_sweep_that_is_not_finished_says_so_with_the_command_that_continues_it(
    tmp_path: Path,
) -> None:
    folder = write_sweep(tmp_path / "a", 8, judged=False)
    rewritten(folder, command="python -m orchestrator +sweep=lora 'storage=/tmp/x y'")
    page = text_of(folder)
    assert "The sweep is not finished (running, or its command has died): 8 of 8 trials" in page
    assert "python -m orchestrator +sweep=lora &#x27;storage=/tmp/x y&#x27;" in page
    end = {"t": 9, "kind": "sweep_end", "state": "failed", "error": "storage /tmp is full."}
    with (folder / "journal.jsonl").open("a") as stream:
        stream.write(json.dumps(end) + "\n")
    assert "The sweep is not finished (failed: storage /tmp is full): 8 of" in text_of(folder)
    assert "This command continues it:" in text_of(folder)
    assert "This command continues it:" not in text_of(write_sweep(tmp_path / "b", 8))


def test_a_function_of_ones_own_is_ranked_in_its_own_direction(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 20, judged=False)
    file = folder / "journal.jsonl"
    file.write_text(file.read_text().replace("valid/exact_match", "valid/mine:penalty"))
    rewritten(folder, maximise=False)
    data = read_sweep(folder)
    scores = [trial.score for trial in data.ranked()]
    assert scores == sorted(scores, key=lambda score: score or 0.0) and len(set(scores)) > 3
    assert content(data)["unit"] == "as it returns"
    rewritten(folder, maximise=True)
    scores = [trial.score for trial in read_sweep(folder).ranked()]
    assert scores == sorted(scores, key=lambda score: -(score or 0.0))


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("rouge_l", "0 to 1"),
        ("chrf", "0 to 100"),
        ("accuracy", "share of rows, 0 to 1"),
        ("cost", "cost per row"),
        ("valid/nobody_knows", "no unit"),
    ],
)
def test_units_are_those_of_the_registry(metric: str, unit: str) -> None:
    assert metric_text.unit(metric) == unit


def test_the_verdict_tells_the_threshold_and_what_was_forgotten(tmp_path: Path) -> None:
    rule = {
        "label": "spam",
        "threshold": 0.91,
        "cost": 0.02,
        "cost_at_half": 0.05,
        "calibration_error": 0.03,
        "valid_rows": 181,
    }
    forgetting = {"general": {"rows": 90, "before": 3.2, "after": 3.5, "change": 0.3}}
    folder = write_sweep(tmp_path / "a", 4)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    told = result | {"threshold": rule, "forgetting": forgetting}
    (folder / "result.json").write_text(json.dumps(told), encoding="utf-8")
    page = text_of(folder)
    assert "Cost: 0.020 a row when &quot;spam&quot; is answered from probability 0.910" in page
    assert "Kept of general: loss on 90 test rows 3.200 before training, 3.500 after" in page
    torn = result | {"threshold": {"label": 3}, "forgetting": {"general": 1}}
    (folder / "result.json").write_text(json.dumps(torn), encoding="utf-8")
    assert "Kept of" not in text_of(folder)


def test_baselines_are_called_by_words(tmp_path: Path) -> None:
    baselines = {"nearest_prompt": {"metrics": {"test/exact_match": 0.63}}}
    page = text_of(write_sweep(tmp_path / "a", 8, baselines=baselines))
    assert "the answer of the nearest training prompt" in page and "nearest_prompt" not in page


def test_the_slices_that_were_judged_are_shown_with_those_of_the_users_columns(
    tmp_path: Path,
) -> None:
    folder = write_sweep(tmp_path / "a", 8)
    file = folder / "result.json"
    found = json.loads(file.read_text())
    labels = {f"A{n:03d}": {"rows": 10.0 + n, "exact_match": n / 80} for n in range(41)}
    found["best"]["slices"] = {
        "hospital": {"north": {"rows": 40.0, "exact_match": 0.25}, "(none)": {"rows": 3.0}},
        "answer_length": {"000-008": {"rows": 50.0, "exact_match": 0.5}},
        "label": labels,
    }
    file.write_text(json.dumps(found))
    hospital, length, label = content(read_sweep(folder))["slices"]
    (north,) = hospital["rows"]
    assert (hospital["column"], north["name"], north["rows"]) == ("hospital", "north", 40)
    assert north["low"] < north["value"] == 0.25 < north["high"]
    assert length["column"] == "answer length"
    assert label["column"] == "label (the 30 with the most rows)"
    assert len(label["rows"]) == 30 and label["rows"][0]["name"] == "A040"
