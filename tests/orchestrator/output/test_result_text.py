"""What is told at the end of a sweep, compared whole, and the commands to paste."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from orchestrator.output import result, sweep_result
from orchestrator.output.sweep_result import TrialCounts
from orchestrator.storage.journal import Record
from orchestrator.tracking.shown_commands import programs_here
from tests.support.results import outcome

FINISHED = """\
best    trial 3  lr=0.00214 rank=8
test    test/exact_match 0.412 (95% interval 0.379..0.446)
base    the untouched base 0.000 (95% interval 0.000..0.000)
trials  2 finished, 3 stopped early, 1 failed of 6
failed  trial 4: out of memory
time    1h02m (9s to start, 9m41s of training; planned 58m20s)
model   icd10-tiny v7 has the alias champion
why     better than v6 (0.27)
open    mlflow ui --backend-store-uri 'sqlite:////tmp/my outputs/mlflow.db'
more    python -m orchestrator +sweep=lora sweep.num_trials=12
try     python -m orchestrator job=predict model_uri=models:/icd10-tiny@champion prompt='What'"'"'s it?' storage=/tmp/x"""
INTERRUPTED = """\
best    trial 3  lr=0.00214 rank=8
trials  1 finished, 0 stopped early, 0 failed of 6
time    42s (9s to start, 33s of training)
go on   python -m orchestrator +sweep=lora
open    https://mlflow.example"""
FAILED = """\
trials  0 finished, 0 stopped early, 3 failed of 6
failed  trial 1: loss is not finite
error   the first 3 trials failed for the same reason: loss is not finite
missing 12 events not yet in MLflow (it is slow to answer); the same command again writes them
time    42s (9s to start, 33s of training)
open    https://mlflow.example"""
SHORT = {
    "seconds": {"setup": 9.0, "train": 33.0, "total": 42.0},
    "tracking_uri": "https://mlflow.example",
    "base": None,
    "model": None,
}


def test_a_finished_sweep_shows_winner_base_model_and_the_next_commands() -> None:
    assert result.text(outcome()) == FINISHED


def test_an_interrupted_sweep_shows_how_to_go_on() -> None:
    best = {
        "trial": 3,
        "params": {"optim.lr": 0.00214, "adapter.rank": 8},
        "metrics": {"valid/loss": 0.9},
    }
    trials = {"total": 6, "finished": 1, "stopped": 0, "failed": 0}
    assert (
        result.text(outcome(state="interrupted", best=best, trials=trials, failures=[], **SHORT))
        == INTERRUPTED
    )


def test_a_failed_sweep_shows_why() -> None:
    told = {
        "state": "failed",
        "best": None,
        "trials": {"total": 6, "finished": 0, "stopped": 0, "failed": 3},
        "failures": ["trial 1: loss is not finite"],
        "error": "the first 3 trials failed for the same reason: loss is not finite",
        "missing": result.unfinished(12, None),
    }
    assert result.text(outcome(**told, **SHORT)) == FAILED


def test_a_model_that_did_not_become_champion_is_tried_by_its_version() -> None:
    model = {"name": "icd10-tiny", "version": 7, "alias": None, "uri": "models:/icd10-tiny/7"}
    text = result.text(outcome(model=model, decision="v6 stays"))
    assert (
        "model   icd10-tiny v7 is registered, without the alias champion\nwhy     v6 stays\n"
        in text
    )
    assert "model_uri=models:/icd10-tiny/7 " in text


REASONS = [
    "it does not beat the answer of the nearest training prompt: 0.2482 against 0.6306",
    "it does not beat the champion by more than chance may give: 0.2482 against 0.2471 (p=0.4, "
    "registry.error_rate=0.05)",
]
HELP = "more rows: 61 of the test rows have an answer that no training row has"


@pytest.mark.parametrize("width", [None, 100, 80, 20])
def test_reasons_and_help_stand_on_lines_of_their_own_and_fit_the_terminal(
    width: int | None,
) -> None:
    model = {"name": "icd10-tiny", "version": 7, "alias": None, "uri": "models:/icd10-tiny/7"}
    told = outcome(model=model, decision="; ".join(REASONS), reasons=REASONS, help=[HELP])
    lines = result.text(told, width=width).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("model "))
    labels = [line[:8].strip() for line in lines[at:]]
    assert [label for label in labels if label] == [
        "model",
        "why",
        "why",
        "help",
        *("open", "more", "try"),
    ]
    sentences = [line for line in lines if not line.startswith(("open", "more", "try"))]
    if width is None:
        assert f"why     {REASONS[1]}" in lines
    else:
        assert max(map(len, sentences)) <= max(width, result.NARROWEST)
        whole = " ".join(line.strip() for line in lines)
        assert all(reason in whole.replace("why     ", "") for reason in REASONS)
    assert any(line.startswith("try     python -m ") and len(line) > 100 for line in lines)


def test_what_is_added_over_copying_the_nearest_neighbour_is_told() -> None:
    shown = {"hold": 0.858, "nearest": 0.632, "copied": 0.71, "further_rows": 192.0}
    metrics = {f"test/neighbours_{name}": value for name, value in shown.items()}
    best = outcome().as_json()["best"]
    told = result.text(outcome(best=best | {"metrics": best["metrics"] | metrics}))
    line = next(line for line in told.splitlines() if line.startswith("shown"))
    assert line == (
        "shown   the right answer is among its neighbours' in 0.858 of the test rows, the nearest "
        "one's in 0.632; it answered the nearest one's in 0.710"
    )
    metrics["test/neighbours_further"] = 0.25
    told = result.text(outcome(best=best | {"metrics": best["metrics"] | metrics}))
    assert "; right in 0.250 of the 192 rows whose answer is another neighbour's\n" in told


def test_a_single_run_offers_no_wider_sweep() -> None:
    assert "more " not in result.text(
        outcome(trials={"total": 1, "finished": 1, "stopped": 0, "failed": 0})
    )


def test_json_holds_the_public_part_and_the_error_if_there_is_one() -> None:
    assert tuple(result.public(outcome())) == result.PUBLIC
    assert set(result.public(outcome())["best"]) == {"trial", "run_id", "params", "metrics"}
    assert result.public(outcome(best=None))["best"] is None
    assert result.public(outcome(error="no disk"))["error"] == "no disk"
    json.dumps(result.public(outcome()))


def test_a_record_on_disk_is_read_back_whole_and_one_of_before_versions_too() -> None:
    found = outcome()
    record = json.loads(json.dumps(found.as_json()))
    assert next(iter(record)) == "version" and record["version"] == sweep_result.VERSION
    assert result.read(record) == found
    assert "report" not in record and record["error"] is None, "what comes later is left out"
    older = {key: value for key, value in record.items() if key != "version"}
    assert result.read(older) == found, "written before records had a version"
    assert result.read(record | {"version": sweep_result.VERSION + 1}) is None
    assert result.read(record | {"trials": {"total": "many"}}) is None
    assert result.read({}) is None
    torn = record | {"best": record["best"] | {"metrics": {"test/exact_match": 0.4}}}
    assert result.read(torn) is None, "its interval is missing, so it cannot be shown"
    for key in ("steps", "target", "command", "wider", "best", "base", "baselines", "model"):
        assert result.read({k: v for k, v in record.items() if k != key}) is None, key


def test_trials_are_counted_and_failures_named() -> None:
    records = [
        Record(1, state="finished"),
        Record(2, state="failed", error="boom"),
        Record(3, state="stopped"),
    ]
    assert result.counted([r.state for r in records], 4) == TrialCounts(
        total=4, finished=1, stopped=1, failed=1
    )
    assert result.failures(records) == ["trial 2: boom"]
    assert result.unfinished(0, "x") is None
    assert (
        result.unfinished(0, None, 2, Path("a/refused.jsonl"))
        == "2 events refused by MLflow, kept with the reasons in a/refused.jsonl"
    )
    assert (result.unfinished(3, None, 2, Path("r")) or "").count("; ") == 2
    assert (
        result.unfinished(1, "no answer")
        == "1 event not yet in MLflow (no answer); the same command again writes them"
    )


def test_commands_to_paste_start_this_environments_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_TYPED", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert programs_here() == ".venv/bin/"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert programs_here() == f"{tmp_path}/.venv/bin/"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path / ".venv" / "bin"))
    assert programs_here() == "", "the environment is active"
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("ORCHESTRATOR_TYPED", "+sweep=lora")
    assert programs_here() == "", "read on the machine that sent the command"
    lines = dict(result.next_lines(outcome(), ".venv/bin/"))
    assert lines["more"].startswith(".venv/bin/python -m ") and lines["open"].startswith(
        ".venv/bin/mlflow ui "
    )
