"""What a sweep's numbers warn of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.report.alerts import alerts, idle_share
from orchestrator.report.edges import edge_of, widened
from orchestrator.report.leaks import answers_in_prompts
from orchestrator.report.metric_text import noise, wilson
from orchestrator.report.sweep_data import read_sweep
from tests.support.journals import write_sweep


def issued(folder: Path) -> dict[str, list[dict[str, Any]]]:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for alert in alerts(read_sweep(folder)):
        by_kind.setdefault(alert["kind"], []).append(alert)
    return by_kind


def test_a_baseline_that_wins_comes_first_and_names_its_score(tmp_path: Path) -> None:
    baselines = {
        "nearest row": {"metrics": {"test/exact_match": 0.63}},
        "most frequent answer": {"metrics": {"test/exact_match": 0.04}},
    }
    found = alerts(read_sweep(write_sweep(tmp_path / "a", 40, baselines=baselines)))
    assert found[0]["kind"] == "baseline_wins"
    assert "nearest row scores 0.63" in found[0]["text"]
    assert sum(alert["kind"] == "baseline_wins" for alert in found) == 1


def test_the_best_value_at_an_edge_comes_with_a_wider_space(tmp_path: Path) -> None:
    found = issued(write_sweep(tmp_path / "a", 100, best_lr=8e-3))
    (edge,) = [alert for alert in found["best_at_edge"] if alert["knob"] == "optim.lr"]
    assert "sweep.space.lr.high=0.02" in edge["command"]
    inside = issued(write_sweep(tmp_path / "b", 100, best_lr=5e-4))
    assert not [alert for alert in inside.get("best_at_edge", []) if alert["knob"] == "optim.lr"]


def test_a_value_that_every_trial_had_is_no_best_one_at_an_edge(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 12, best_lr=8e-3)
    lines = (folder / "journal.jsonl").read_text()
    lines = re.sub(r'"adapter.rank": \d+', '"adapter.rank": 32', lines)
    (folder / "journal.jsonl").write_text(lines)
    assert all(alert["knob"] != "adapter.rank" for alert in issued(folder).get("best_at_edge", []))


@pytest.mark.parametrize(
    ("knob", "value", "side", "setting"),
    [
        (
            {"path": "optim.lr", "type": "loguniform", "low": 1e-4, "high": 1e-2},
            1.05e-4,
            "lower",
            "sweep.space.k.low=2.5e-05",
        ),
        (
            {"path": "adapter.rank", "type": "choice", "values": [4, 8, 16]},
            16,
            "upper",
            "sweep.space.k.values=[4,8,16,64]",
        ),
        ({"path": "adapter.rank", "type": "choice", "values": [1, 8]}, 1, "lower", None),
        (
            {"path": "data.sources.a.weight", "type": "uniform", "low": 0.0, "high": 0.9},
            0.0,
            "lower",
            None,
        ),
        (
            {"path": "data.sources.a.weight", "type": "uniform", "low": 0.0, "high": 0.9},
            0.9,
            "upper",
            "sweep.space.k.high=1",
        ),
        ({"path": "optim.lr", "type": "loguniform", "low": 1e-4, "high": 1e-2}, 1e-3, None, None),
        (
            {"path": "optim.schedule", "type": "choice", "values": ["constant", "linear"]},
            "linear",
            None,
            None,
        ),
    ],
)
def test_edges(knob: dict[str, Any], value: Any, side: str | None, setting: str | None) -> None:
    assert edge_of(knob, value) == side
    assert side is None or widened("k", knob, side) == setting


def test_trials_that_few_rows_cannot_tell_apart_are_tied(tmp_path: Path) -> None:
    few = issued(write_sweep(tmp_path / "a", 40, valid_rows=20))
    assert "are tied: on 20 validation rows" in few["gain_below_noise"][0]["text"]
    many = issued(write_sweep(tmp_path / "b", 8, valid_rows=200_000, seed=3))
    assert not [a for a in many.get("gain_below_noise", []) if "tied" in a["text"]]


def test_slots_that_stand_idle_are_told_with_more_trials(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 8)
    text = (folder / "journal.jsonl").read_text().replace('"concurrent": 8', '"concurrent": 64')
    (folder / "journal.jsonl").write_text(text)
    (alert,) = issued(folder)["slots_idle"]
    assert "64 slots were idle" in alert["text"] and "sweep.num_trials=" in alert["command"]


def test_the_pause_between_two_commands_is_no_time_of_idle_slots(tmp_path: Path) -> None:
    """Also where a trial of the first command goes on in the second one."""
    start = {"kind": "sweep", "params": {}, "concurrent": 2}
    report = {"kind": "report", "step": 1, "metrics": {"valid/loss": 1.0}}
    events = [
        start | {"t": 0},
        *({"t": 0, "kind": "trial", "trial": index, "point": {}} for index in (1, 2)),
        report | {"t": 60_000, "trial": 1},
        report | {"t": 40_000, "trial": 2},
        start | {"t": 4_990_000},
        {"t": 5_000_000, "kind": "trial", "trial": 1, "point": {}},
        report | {"t": 5_060_000, "trial": 1, "step": 2},
    ]
    (tmp_path / "journal.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    assert idle_share(read_sweep(tmp_path)) == pytest.approx(1 - 160 / 240)


def test_leaks_are_suspected_by_twins_and_by_scores_that_are_too_good(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 8)
    note = "test: 21 of 850 rows have a near-twin that is trained on, such as 'x'"
    lines = (folder / "journal.jsonl").read_text().splitlines()
    start = json.loads(lines[0]) | {"notes": [note]}
    (folder / "journal.jsonl").write_text("\n".join([json.dumps(start), *lines[1:]]) + "\n")
    assert "2.5% of the test rows" in issued(folder)["leak_suspected"][0]["text"]
    result = json.loads((folder / "result.json").read_text())
    result["best"]["metrics"]["test/exact_match"] = 0.999
    (folder / "result.json").write_text(json.dumps(result))
    assert "suspiciously good" in issued(folder)["leak_suspected"][1]["text"]


def test_failures_come_by_cause(tmp_path: Path) -> None:
    (alert,) = issued(write_sweep(tmp_path / "a", 200, faulty=True))["failures"]
    assert "out of memory" in alert["text"] and "retry=true" in alert["command"]


def test_noise_is_not_zero_where_nobody_has_a_hit() -> None:
    assert noise(0.0, 0.0, 400) > 0
    assert noise(0.5, 0.5, 400) == pytest.approx(0.069, abs=0.002)
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_labels_that_every_prompt_lists_give_no_answer_away() -> None:
    labels = ("billing", "technical", "shipping")

    def told(prompt: str) -> list[Any]:
        rows = [
            {"text": prompt.format(n=n, label=labels[n % 3]), "reference": labels[n % 3]}
            for n in range(60)
        ]
        data: Any = SimpleNamespace(predictions=rows)
        return answers_in_prompts(data)

    assert told("Say billing, technical or shipping: mail {n}") == []
    assert len(told("Say what it is: mail {n} to {label}")) == 1
