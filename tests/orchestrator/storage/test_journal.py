"""The journal: what survives a crash, and how records are rebuilt from it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.storage.journal import Journal, Record
from orchestrator.storage.json_files import write_json
from orchestrator.storage.locks import locked
from orchestrator.storage.paths import storage_folder, sweep_folder
from tests.conftest import ROOT


def filled(folder: Path) -> Journal:
    """The journal of a trial that has reported twice."""
    journal = Journal(folder)
    journal.append("trial", trial=1, point={"optim.lr": 0.1})
    journal.append("report", trial=1, step=10, metrics={"valid/loss": 0.7}, checkpoint="/a")
    journal.append("report", trial=1, step=20, metrics={"valid/loss": 0.5})
    return journal


def test_a_journal_torn_at_any_byte_gives_every_whole_line_and_takes_new_ones(
    tmp_path: Path,
) -> None:
    whole = filled(tmp_path).file.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for length in range(last, len(whole) + 1):
        torn = Journal(tmp_path)
        torn.file.write_bytes(whole[:length])
        complete = length >= len(whole) - 1  # without its line break a line is whole too
        assert list(torn.records()[1].reports) == ([10, 20] if complete else [10])
        torn.append("end", trial=1, state="failed", error="x")
        record = torn.records()[1]
        assert (record.state, record.error) == ("failed", "x")
        assert list(record.reports) == ([10, 20] if complete else [10])


def test_an_empty_or_absent_journal_has_no_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.records() == {}
    journal.file.touch()
    assert journal.records() == {}
    journal.append("sweep", name="x")
    assert journal.records() == {}, "an event of the sweep is no trial"


@pytest.mark.parametrize(
    "noise",
    [
        b"null\n",
        b"[]\n",
        b'{"t": 1}\n',
        b"\xff\xfe\n",
        b"\x00\x00\n",
        b"\n",
        b'"kind"\n',
        b'{"t": 1, "kind": "report", "trial": 1, "step": "20", "metrics": {}}\n',
        b'{"t": 1, "kind": "report", "trial": 1, "step": 20, "metrics": {"valid/loss": "low"}}\n',
        b'{"t": 1, "kind": "end", "trial": [1], "state": "failed"}\n',
        b'{"t": 1, "kind": "trial", "trial": 1, "point": 3}\n',
    ],
)
def test_a_line_that_is_no_event_is_left_out(tmp_path: Path, noise: bytes) -> None:
    journal = filled(tmp_path)
    with journal.file.open("ab") as stream:
        stream.write(noise)
    journal.append("end", trial=1, state="finished", error=None)
    assert journal.records()[1].state == "finished"
    assert len(list(journal.events())) == 4


def test_text_with_any_line_break_stays_one_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    text = "a\nb\r\nc\u2028d\u0085e\x0bf ü 😀"
    journal.append("end", trial=1, state="failed", error=text)
    assert journal.records()[1].error == text


def test_a_trial_that_starts_again_is_running_and_keeps_its_reports(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.append("end", trial=1, state="failed", error="out of memory")
    journal.append("trial", trial=1, point={"optim.lr": 0.1})
    record = journal.records()[1]
    assert (record.state, record.error, list(record.reports), record.checkpoints) == (
        "running",
        None,
        [10, 20],
        {10: "/a"},
    )


def test_what_is_not_a_number_is_kept_and_is_never_best(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.append(
        "report",
        trial=1,
        step=30,
        metrics={"valid/loss": float("nan"), "valid/exact_match": float("inf")},
    )
    record = journal.records()[1]
    assert math.isnan(record.reports[30]["valid/loss"])
    assert record.best("valid/loss", maximise=False) == (20, 0.5)
    none_known = Record(1, reports={1: {"valid/loss": float("nan")}})
    assert none_known.best("valid/loss", maximise=False) is None
    assert Record(1).best("valid/loss", maximise=False) is None


def test_of_equal_reports_the_later_one_is_best() -> None:
    losses = {10: 0.5, 30: 0.5, 20: 0.5, 40: 0.9}
    record = Record(1, reports={step: {"valid/loss": loss} for step, loss in losses.items()})
    assert record.best("valid/loss", maximise=False) == (30, 0.5)


def test_threads_do_not_write_into_each_others_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        writers = [
            pool.submit(lambda n=n: [journal.append("metrics", trial=n, step=i) for i in range(50)])
            for n in range(8)
        ]
    for writer in writers:
        writer.result()
    lines = [json.loads(line) for line in journal.file.read_text().splitlines()]
    assert sorted((line["trial"], line["step"]) for line in lines) == [
        (n, i) for n in range(8) for i in range(50)
    ]


def test_a_store_that_another_process_holds_is_refused_with_its_number_and_free_when_that_dies(
    tmp_path: Path,
) -> None:
    code = "import sys, time; from orchestrator.storage.locks import locked\nwith locked(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=f"in use by process {other.pid}"),
            locked(str(tmp_path)),
        ):
            pass
    finally:
        other.kill()
        other.communicate()
    with locked(str(tmp_path)):
        assert f"process {os.getpid()}" in (tmp_path / ".owner").read_text()
    assert not (tmp_path / ".owner").exists()


def test_storage_is_a_folder_a_file_uri_or_a_place_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert (
        storage_folder("x")
        == storage_folder("~/x")
        == storage_folder(f"file://{tmp_path}/x")
        == tmp_path / "x"
    )
    assert sweep_folder("x", "run-1") == tmp_path / "x" / "sweeps" / "run-1"
    assert storage_folder("~nosuchuser/x") == tmp_path / "~nosuchuser" / "x"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "result.json", {"a": object()})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": 1}


def test_a_new_storage_is_its_users_and_one_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    """Under the usual umask, which lets everybody read."""
    before = os.umask(0o022)
    try:
        for fresh in (tmp_path / "new", tmp_path / "a" / "b"):
            with locked(str(fresh)):
                assert fresh.stat().st_mode & 0o7777 == 0o700
        assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755, (
            "only the storage itself is closed"
        )
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o2775)
        with locked(str(shared)):
            assert shared.stat().st_mode & 0o7777 == 0o2775
        with locked(str(tmp_path / "cluster"), "sweep"):
            assert (tmp_path / "cluster").stat().st_mode & 0o777 == 0o755, (
                "a cluster's storage belongs to more than one"
            )
    finally:
        os.umask(before)


def test_a_reason_in_the_journal_repeats_no_secret(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(
        "end",
        trial=1,
        state="failed",
        error="cannot open postgresql://me:canary4711@host/d?sslpassword=canary4711",
    )
    assert (
        "canary4711" not in journal.file.read_text()
        and "postgresql://me:***@host/d" in journal.file.read_text()
    )
