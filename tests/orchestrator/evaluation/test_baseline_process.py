"""The process that computes the baselines while a sweep runs: kept answers, a kill, bad data."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus
from orchestrator.evaluation.baseline_process import BaselineProcess


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Closed answers that the words of the prompt tell."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    words = {"card stolen": "fraud", "new address": "change", "bill too high": "billing"}
    rows = [
        {"prompt": f"{words_asked} {number}", "completion": answer}
        for number in range(60)
        for words_asked, answer in words.items()
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Data(name="support", sources={"train": Source(path=str(file))})


def process_of(data: Data, folder: Path) -> BaselineProcess:
    return BaselineProcess(data, load_corpus(data).digests, folder)


def nothing() -> None:
    """What is done while it is waited for."""


def test_answers_are_kept_with_the_datas_digest_and_not_computed_again(
    data: Data, tmp_path: Path
) -> None:
    with process_of(data, tmp_path) as running:
        told, reason = running.collect(nothing)
    assert told is not None and reason is None
    assert set(told.splits["test"]) == {"most_frequent", "nearest_prompt", "linear_classifier"}
    before = running.file.stat().st_mtime_ns
    with process_of(data, tmp_path) as again:
        assert again.process is None, "what is known is not computed"
        assert again.collect(nothing) == (told, None)
    assert running.file.stat().st_mtime_ns == before


def test_answers_that_a_disk_has_changed_are_computed_again(data: Data, tmp_path: Path) -> None:
    with process_of(data, tmp_path) as running:
        told, _ = running.collect(nothing)
    whole = running.file.read_text(encoding="utf-8")
    running.file.write_text(whole.replace("fraud", "fraue", 1), encoding="utf-8")
    with process_of(data, tmp_path) as again:
        assert again.process is not None
        found, _ = again.collect(nothing)
    assert told is not None and found is not None and found.splits == told.splits


def test_other_rows_have_other_answers(data: Data, tmp_path: Path) -> None:
    file = Path(str(data.sources["train"].path))
    first = process_of(data, tmp_path).file
    file.write_text(file.read_text() + json.dumps({"prompt": "x", "completion": "fraud"}) + "\n")
    assert process_of(data, tmp_path).file != first


def test_a_process_that_is_killed_is_started_once_more(data: Data, tmp_path: Path) -> None:
    with process_of(data, tmp_path) as running:
        assert running.process is not None
        os.kill(running.process.pid, signal.SIGKILL)
        told, reason = running.collect(nothing)
    assert told is not None and reason is None


def test_why_nothing_comes_out_is_told_and_ends_no_sweep(data: Data, tmp_path: Path) -> None:
    running = process_of(data, tmp_path)
    Path(str(data.sources["train"].path)).unlink()
    with running:
        told, reason = running.collect(nothing)
    assert told is None and reason is not None and "train.jsonl" in reason


def test_a_torn_file_is_computed_again(data: Data, tmp_path: Path) -> None:
    with process_of(data, tmp_path) as running:
        told, _ = running.collect(nothing)
    running.file.write_text('{"splits": ')
    with process_of(data, tmp_path) as again:
        assert again.process is not None
        found, reason = again.collect(nothing)
    assert told is not None and found is not None and reason is None
    assert found.splits == told.splits


def test_it_ends_with_the_sweep(data: Data, tmp_path: Path) -> None:
    with process_of(data, tmp_path) as running:
        assert running.process is not None
        pid = running.process.pid
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
