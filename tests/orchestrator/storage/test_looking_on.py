"""Looking at a store while others work in it: no lock is taken, nothing is read twice, and what is
told is so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InputError
from orchestrator.runs import local_storage
from orchestrator.runs.backend import hint
from orchestrator.storage import locks
from orchestrator.storage.file_lock import Lock, is_held
from orchestrator.storage.journal import Journal
from orchestrator.storage.journal_reader import History
from orchestrator.storage.locks import held_by, locked, this_process
from tests.conftest import ROOT

NUM_STARTS = 30


def test_starts_beside_readers_in_a_loop_are_never_refused_and_no_reader_stumbles(
    tmp_path: Path,
) -> None:
    Journal(make(tmp_path, "a-1")).append("sweep", params={"sweep.num_trials": 1})
    over, found, stumbled = threading.Event(), set[str], list[BaseException]()
    states = found()

    def look() -> None:
        place = local_storage.LocalRuns(str(tmp_path))
        while not over.is_set():
            try:
                states.update(record["state"] for record in place.listed())
            except BaseException as error:
                stumbled.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(NUM_STARTS):
            with locked(str(tmp_path)):
                pass
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert not stumbled
    assert states <= {"running", "died"}


def test_a_lock_is_seen_and_not_taken_by_looking(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    assert not is_held(file) and not file.exists()
    lock = Lock(file)
    assert lock.acquire() and is_held(file)
    assert not Lock(file).acquire()
    lock.release()
    assert not is_held(file)
    assert held_by(tmp_path) is None


def test_a_lock_is_held_as_long_as_someone_who_has_inherited_it_lives(tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire() and lock.descriptor is not None
    heir = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,)
    )
    lock.release()
    assert is_held(lock.file)
    heir.communicate()
    assert not is_held(lock.file)


def make(storage: Path, name: str) -> Path:
    """The folder of a sweep."""
    folder = storage / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state(storage: Path, name: str) -> str:
    """What a new look says."""
    return next(
        record["state"]
        for record in local_storage.LocalRuns(str(storage)).listed()
        if record["name"] == name
    )


def test_a_sweep_that_was_killed_and_then_finished_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(make(tmp_path, "a-1"))
    place = local_storage.LocalRuns(str(tmp_path))
    journal.append("sweep", params={"sweep.num_trials": 1})
    assert place.record(journal.folder)["state"] == "died"
    for ended in ("finished", "failed", "interrupted"):
        journal.append("sweep", params={"sweep.num_trials": 1})
        assert place.record(journal.folder)["state"] == state(tmp_path, "a-1") == "died"
        journal.append("sweep_end", state=ended)
        assert place.record(journal.folder)["state"] == state(tmp_path, "a-1") == ended
        assert place.watch("a-1") == {"finished": 0, "failed": 1, "interrupted": 130}[ended]
    told = capsys.readouterr().out.splitlines()
    assert told == ["a-1 finished", "a-1 failed", f"a-1 interrupted: {hint('interrupted')}"]


def test_a_sweep_that_has_died_is_not_running_because_another_one_in_its_store_is(
    tmp_path: Path,
) -> None:
    Journal(make(tmp_path, "died-1")).append(
        "sweep", params={}, by=f"process 1 on {os.uname().nodename}"
    )
    running = Journal(make(tmp_path, "runs-1"))
    with locked(str(tmp_path)):
        running.append("sweep", params={}, by=this_process())
        assert (state(tmp_path, "died-1"), state(tmp_path, "runs-1")) == ("died", "running")
    assert state(tmp_path, "runs-1") == "died"


def test_what_was_read_is_not_read_again_and_what_is_added_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(make(tmp_path, "a-1"))
    for step in range(200):
        journal.append("report", trial=1, step=step, metrics={"valid/loss": 1.0})
    parsed: list[Any] = []
    loads = json.loads
    monkeypatch.setattr(
        json, "loads", lambda text, **options: parsed.append(text) or loads(text, **options)
    )
    history = History(journal.folder)
    assert len(history.update()) == 200 and len(parsed) == 200
    assert history.update() == [] and len(parsed) == 200
    journal.append("end", trial=1, state="finished")
    assert [event["kind"] for event in history.update()] == ["end"] and len(parsed) == 201
    assert history.records[1].state == "finished"


def test_a_line_that_is_being_written_is_read_when_it_is_whole_and_a_journal_begun_anew_from_its_start(
    tmp_path: Path,
) -> None:
    journal = Journal(make(tmp_path, "a-1"))
    journal.append("sweep", params={"sweep.num_trials": 3})
    whole = b'{"t": 2, "kind": "end", "trial": 1, "state": "failed", "error": "x"}'
    history = History(journal.folder)
    history.update()
    for part in (whole[:10], whole[10:-1]):
        with journal.file.open("ab") as stream:
            stream.write(part)
        assert history.update() == []
    with journal.file.open("ab") as stream:
        stream.write(whole[-1:])
    assert len(history.update()) == 1, "its line break may never come"
    journal.append("sweep_end", state="finished")
    assert len(history.update()) == 1 and history.state == "finished"
    journal.file.unlink()
    assert history.update() == [] and history.records == {}
    journal.append("sweep", params={"sweep.num_trials": 4})
    journal.append("trial", trial=2, point={})
    assert len(history.update()) == 2 and (history.total, list(history.records)) == (4, [2])


def test_a_start_waits_for_what_a_killed_command_has_left_and_refuses_at_once_where_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, time; from orchestrator.storage.locks import locked\nwith locked(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    line = [sys.executable, "-c", code, str(tmp_path)]
    for _ in range(5):
        other = subprocess.Popen(
            line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with monkeypatch.context() as patient:
            patient.setattr(locks, "CLEANING_SECONDS", 3600)
            with (
                pytest.raises(InputError, match=f"in use by process {other.pid}"),
                locked(str(tmp_path)),
            ):
                pass
        other.kill()
        os.waitid(
            os.P_PID, other.pid, os.WEXITED | os.WNOWAIT
        )  # it is not reaped: a zombie works at nothing
        with locked(str(tmp_path)):
            pass
        other.communicate()
