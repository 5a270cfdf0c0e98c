"""Who may write a sweep of an object store: claims, over a real S3 server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.files import filesystem
from orchestrator.errors import InputError
from orchestrator.storage import sync
from orchestrator.storage.paths import storage_folder
from tests.support.object_store import empty_bucket
from tests.support.servers import free_port

bucket = pytest.fixture(scope="module")(empty_bucket)


def test_a_sweep_is_held_by_one_and_the_journal_that_has_grown_wins(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = filesystem.join(bucket, "held")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "one"))
    with sync.synced(storage, "a-1"):
        folder = storage_folder(storage) / "sweeps" / "a-1"
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_text("1\n2\n")
        with (
            pytest.raises(InputError, match="sweep a-1 of storage .* is in use by process"),
            sync.synced(storage, "a-1"),
        ):
            pass
        with sync.synced(storage, "b-1"):
            pass
    (folder / "journal.jsonl").write_text("1\n2\n3\n")
    with sync.synced(storage, "a-1"):
        assert (folder / "journal.jsonl").read_text() == "1\n2\n3\n", (
            "written here and not copied before the process died"
        )
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "two"))
    with sync.synced(storage, "a-1"):
        other = storage_folder(storage) / "sweeps" / "a-1" / "journal.jsonl"
        assert other.read_text() == "1\n2\n3\n"
        other.write_text("9\n")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "one"))
    with sync.synced(storage, "a-1"):
        assert (folder / "journal.jsonl").read_text() == "9\n", "begun anew elsewhere"


def test_of_commands_that_claim_a_sweep_at_the_same_time_one_gets_it(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    storage, together = filesystem.join(bucket, "race"), threading.Barrier(2)
    holding, most, got = set[int](), [0], list[int]()

    def claim(number: int) -> None:
        for _ in range(6):
            together.wait(300)
            claimer = sync.StorageSync(storage, "a-1")
            try:
                claimer.claim()
            except InputError:
                continue
            except BaseException:
                together.abort()
                raise
            holding.add(number)
            most[0] = max(most[0], len(holding))
            got.append(number)
            time.sleep(0.1)
            holding.discard(number)
            claimer.release()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(claim, range(2)))  # raises what has ended one of them
    assert most[0] == 1, "two commands worked on the same sweep"
    assert len(got) >= 6, "each time one of them gets it"
    assert not filesystem.exists(filesystem.join(storage, "owners", "a-1"))


def test_a_claim_whose_process_has_died_here_is_free_at_once_and_one_of_elsewhere_after_a_while(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    storage = filesystem.join(bucket, "died")
    gone = subprocess.Popen(["true"])
    gone.wait()

    def left_by(who: str) -> sync.StorageSync:
        left = sync.StorageSync(storage, "a-1")
        with monkeypatch.context() as other:
            other.setattr(sync, "this_process", lambda: who)
            left.claim()
        return left

    left_by(f"process {gone.pid} on {os.uname().nodename}")
    elsewhere = left_by("process 1 on elsewhere")
    with pytest.raises(InputError, match="in use by process 1 on elsewhere"):
        sync.StorageSync(storage, "a-1").claim()
    assert elsewhere.is_taken() is None
    time.sleep(1.1)  # the store's moments are whole seconds
    with monkeypatch.context() as later:
        later.setattr(sync, "STALE_SECONDS", 0.5)
        sync.StorageSync(storage, "a-1").claim()
    assert elsewhere.is_taken() == f"process {os.getpid()} on {os.uname().nodename}", (
        "it must not write over what the other has done"
    )


def test_a_store_that_is_gone_at_the_end_is_said_and_the_files_stay(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = filesystem.join(bucket, "gone")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    folder = storage_folder(storage) / "sweeps" / "a-1"
    with sync.synced(storage, "a-1"):
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_text("1\n2\n")
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    assert "does not take the last events" in capsys.readouterr().err
    assert (folder / "journal.jsonl").read_text() == "1\n2\n"
