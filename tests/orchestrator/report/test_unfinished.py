"""A report of a sweep whose command has ended before the sweep: written once a trial has reported,
never in the way of the end.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.report import delivery
from orchestrator.report.page import NAME
from tests.support.journals import write_sweep

LENGTH = ("train.steps=20000", "train.eval_every=20", "train.batch_size=4")
WAIT_SECONDS = 240


def cut(folder: Path, *kinds: str) -> None:
    """Take events of these kinds out of a journal."""
    file = folder / "journal.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if json.loads(line)["kind"] not in kinds))


def test_a_report_needs_one_report_of_a_trial(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", 4, judged=False)
    cut(folder, "sweep_end")
    assert delivery.deliver_unfinished(folder) == str(folder / NAME)
    assert "The sweep is not finished" in (folder / NAME).read_text(encoding="utf-8")
    (folder / NAME).unlink()
    cut(folder, "report")
    assert delivery.deliver_unfinished(folder) is None and not (folder / NAME).exists()
    assert delivery.deliver_unfinished(tmp_path / "nowhere") is None


def test_what_keeps_a_report_from_being_written_is_not_the_commands_last_word(
    tmp_path: Path,
) -> None:
    folder = write_sweep(tmp_path / "a", 4, judged=False)
    (folder / NAME).mkdir()  # a file cannot take its place
    assert delivery.deliver_unfinished(folder) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_command_whose_ray_is_lost_leaves_a_report_that_says_how_to_go_on(
    command: Any, tmp_path: Path
) -> None:
    process = command(*LENGTH, f"storage={tmp_path}", start=True)
    deadline = time.monotonic() + WAIT_SECONDS
    reported = False
    while not reported:
        assert time.monotonic() < deadline and process.poll() is None
        texts = [file.read_text() for file in tmp_path.glob("sweeps/*/journal.jsonl")]
        reported = any('"kind": "report"' in text for text in texts)
        time.sleep(0.2)
    daemons = psutil.Process(process.pid).children(recursive=True)
    next(daemon for daemon in daemons if daemon.name() == "gcs_server").kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    (page,) = tmp_path.glob(f"sweeps/*/{NAME}")
    text = page.read_text(encoding="utf-8")
    assert "The sweep is not finished (failed: Ray" in text
    assert "This command continues it:" in text and f"storage={tmp_path}" in text
