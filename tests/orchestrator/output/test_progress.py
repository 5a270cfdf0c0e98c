"""Progress as lines and as a live table, and what is read out of its log."""

from __future__ import annotations

import io
import json
import re

import pytest

from orchestrator import job_environment
from orchestrator.output import log_summary, remote_state, result
from orchestrator.output.progress import ProgressDisplay
from orchestrator.output.remote_state import RemoteState
from tests.support.results import outcome


def test_progress_without_a_terminal_is_one_plain_line_per_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay(12, 40, "valid/loss") as screen:
        screen.start(3, {"optim.lr": 0.01})
        screen.step(3, 1, {"train/loss": 2.0})
        screen.rung(3, 20, {"valid/loss": 0.51234, "train/tokens_per_second": 1234.0})
        screen.start(3, {"optim.lr": 0.01})
        screen.rung(3, 40, {})
        screen.end(3, "finished", None)
        screen.end(4, "failed", "out of memory")
        screen.note("stopping")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [re.sub(r"\d+s$", "0s", line) for line in printed.err.splitlines()] == [
        "trial  3/12  lr=0.01  starts",
        "trial  3/12  lr=0.01  step 20/40  valid/loss 0.5123  1,234 tok/s  0s",
        "trial  3/12  lr=0.01  step 40/40  valid/loss missing  1,234 tok/s  0s",
        "trial  3/12  lr=0.01  finished at step 40",
        "trial  4/12  failed: out of memory",
        "stopping",
    ]


def test_a_sweeps_log_tells_how_far_it_is_and_what_was_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(job_environment.SUBMISSION, "key")
    remote_state.tell(RemoteState(sweep="lora-8ab1e1"))
    screen = ProgressDisplay(12, 40, "valid/exact_match")
    for index, (state, error) in enumerate(
        [("finished", None), ("stopped", None), ("failed", "out of memory"), ("finished", None)], 1
    ):
        screen.start(index, {"optim.lr": 2e-4})
        screen.rung(index, 10, {"valid/exact_match": 0.5})
        if index < 4:
            screen.end(index, "interrupted", None)
            screen.end(index, state, error)
    log = capsys.readouterr().err
    assert log_summary.told("") == {"trials": None, "best": None}
    assert log_summary.told(log) == {"trials": "3/12", "best": None}
    found = outcome()
    assert found.best is not None
    total, score = found.trials.total, found.best.metrics["test/exact_match"]
    expected = {"trials": f"{total}/{total}", "best": f"test/exact_match {score:.3f}"}
    assert log_summary.sweep_told(log) == found.sweep
    remote_state.tell(result.remote_state(found))
    log += capsys.readouterr().err
    assert log_summary.told(f"{log}{job_environment.MARK}\n{result.text(found)}\n") == expected
    monkeypatch.delenv(job_environment.SUBMISSION)
    remote_state.tell(RemoteState(sweep="lora-8ab1e1"))
    assert capsys.readouterr().err == "", "nobody reads it from afar"
    assert (
        log_summary.told(f"{log}{job_environment.MARK}\n{json.dumps(result.public(found))}\n")
        == expected
    )


def test_the_live_table_marks_the_best_row_and_counts_what_is_to_come() -> None:
    from rich.console import Console

    screen = ProgressDisplay(4, 40, "valid/exact_match")
    for index, score in ((1, 0.25), (2, 0.5)):
        screen.start(index, {"adapter.rank": index})
        screen.rung(index, 20, {"valid/exact_match": score})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(screen.table())
    shown = console.export_text()
    assert "20/40" in shown and "rank=2" in shown and "2 trials to come" in shown
    styles = [row.style for row in screen.table().rows]
    assert styles == ["", "bold green"]


def test_a_trial_that_an_earlier_command_has_finished_is_told_with_its_last_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = ProgressDisplay(2, 20, "valid/exact_match")
    screen.start(1, {})
    screen.rung(1, 10, {"valid/exact_match": 0.5}, is_known=True)
    screen.end(1, "finished", None, 20)
    assert "finished at step 20" in capsys.readouterr().err


def test_the_table_says_how_a_trial_ended_although_its_last_steps_are_told_later() -> None:
    screen = ProgressDisplay(2, 40, "valid/exact_match")
    for index, state in ((1, "stopped"), (2, "finished")):
        screen.start(index, {})
        screen.step(index, 19, {"train/loss": 1.0})
        assert screen.rows[index].state == "training"
        screen.rung(index, 20, {"valid/exact_match": 0.5})
        screen.end(index, state, None)
        screen.step(index, 20, {"train/loss": 1.0})
    assert [row.state for row in screen.rows.values()] == ["stopped", "finished"]
    screen.start(2, {})
    screen.step(2, 21, {"train/loss": 1.0})
    assert (screen.rows[2].step, screen.rows[2].state) == (21, "training")
