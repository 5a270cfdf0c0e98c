"""A real sweep that is changed while it runs, stopped, and continued: both executors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.journal import Journal
from tests.conftest import Finished, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = 400
LENGTH = (f"train.steps={STEPS}", "train.eval_every=100", "train.batch_size=8")
SWEEP = ("+sweep=lora", "sweep.num_trials=3", "sweep.max_concurrent=2", "sweep.scheduler=none")
WAIT_SECONDS = 200


@pytest.fixture
def tool(tmp_path: Path, cache: Path) -> Any:
    def run(*words: str) -> Finished:
        line = [sys.executable, "-m", "orchestrator.runs", *words, "--storage", str(tmp_path)]
        done = subprocess.run(
            line, capture_output=True, text=True, env=environment(cache), timeout=180
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def journal_once(storage: Path, kind: str, **wanted: Any) -> Journal:
    """The journal of the only sweep of a storage, once it has such an event."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for file in storage.glob("sweeps/*/journal.jsonl"):
            for event in Journal(file.parent).events():
                if event["kind"] == kind and wanted.items() <= event.items():
                    return Journal(file.parent)
        time.sleep(0.2)
    raise AssertionError(f"no event {kind} {wanted} within {WAIT_SECONDS} s")


@pytest.mark.parametrize("executor", ["pack", "plain"])
def test_trials_are_dropped_and_copied_in_a_sweep_that_goes_on(
    command: Any, tool: Any, tmp_path: Path, executor: str
) -> None:
    line = (*SWEEP, *LENGTH, f"executor={executor}", f"storage={tmp_path}")
    process = command(*line, start=True)
    journal = journal_once(tmp_path, "metrics", trial=1)
    name = journal.folder.name
    assert "trial 2 is dropped" in tool("drop", name, "2").out
    journal_once(tmp_path, "end", trial=2)
    assert "trial 3 is dropped" in tool("drop", name, "3").out
    copied = tool("clone", name, "1", "lr=0.0123", "--json")
    assert json.loads(copied.out)["done"].startswith("trial 4 is a copy of trial 1")
    again = tool("clone", name, "1", "optim.lr=0.0123")
    assert again.code == 2 and "trial 4 has exactly these settings already" in again.err
    refused = tool("clone", name, "1", "adapter.rank=0")
    assert refused.code == 2 and "adapter.rank   must be between 1 and 1024, got 0" in refused.err
    assert tool("stop", name).code == 0
    process.communicate()
    assert process.returncode == 130
    finished = command(*line, timeout=600)
    assert finished.code == 0, finished.err
    assert finished.result["trials"] == {"total": 4, "finished": 2, "stopped": 2, "failed": 0}
    records = journal.records()
    assert {index: record.state for index, record in records.items()} == {
        1: "finished",
        2: "stopped",
        3: "stopped",
        4: "finished",
    }
    assert max(records[2].reports, default=0) < STEPS
    assert records[4].point["optim.lr"] == 0.0123
    assert records[4].point["adapter.rank"] == records[1].point["adapter.rank"]
    assert not list((journal.folder / "requests").iterdir())
    page = (journal.folder / "report.html").read_text(encoding="utf-8")
    assert "is the best of 4" in page
    record = json.loads(tool("show", name, "--json").out)
    assert record["trials"] == "4/4" and isinstance(record["alerts"], list)
    kept = command(*line)
    assert kept.code == 0 and "not the 3 asked for" not in kept.err
    assert kept.result["trials"]["total"] == 4
