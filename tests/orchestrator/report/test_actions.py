"""What was done about faults is counted in the report, from the words that are said of it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.report.actions import actions
from orchestrator.report.page import write_report
from orchestrator.report.sweep_data import read_sweep
from orchestrator.storage.journal import Journal
from tests.support.journals import write_sweep

NOTES = (
    (None, "out of memory: goes on with train.tokens_per_step=512, same effective batch"),
    (None, "out of memory (one example of 900 tokens): goes on with 6 slots instead of 12"),
    (2, "a worker process (pid 7) was killed: by someone; goes on from the last checkpoint"),
    (3, "/x/step-000080 is damaged (cut); goes on from step 40"),
    (None, "storage /x is full: 4 checkpoints that can no longer win are removed (3 MB); goes on"),
    (1, "stopped inside a rung: its loss has diverged: 9 after 3 at first"),
    (2, "ended by the budget (minutes) at step 80"),
    (2, "a remark that is no action"),
)


def test_each_action_is_counted_with_its_trials(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "lora-1", 4)
    journal = Journal(folder)
    for index, note in NOTES:
        journal.append("tags", trial=index, tags={"note": note})
    found = {entry["action"]: entry for entry in actions(read_sweep(folder))}
    assert len(found) == len(NOTES) - 1
    assert found["fewer trials at once after running out of memory"]["count"] == 1
    assert found["a lost worker, on from the last checkpoint"]["trials"] == [2]
    assert found["ended by the budget"]["trials"] == [2]
    page = write_report(folder).read_text(encoding="utf-8")
    assert "What was done" in page and "checkpoints removed from a full disk" in page


def test_a_sweep_without_faults_says_nothing_of_them(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "lora-1", 3)
    assert actions(read_sweep(folder)) == []
    assert "What was done" not in write_report(folder).read_text(encoding="utf-8")
