"""An object store as the storage: a real S3 server over HTTP, real sweeps, a head that is lost with
all its files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.files import filesystem
from jobs.files.checkpoints import CheckpointStore
from jobs.files.manifest import Snapshot
from tests.conftest import Finished, environment
from tests.support.object_store import empty_bucket
from tests.support.servers import mlflow_server

bucket = pytest.fixture(scope="module")(empty_bucket)

SWEEP = (
    "+sweep=lora",
    "sweep.num_trials=2",
    "sweep.scheduler=none",
    "train.eval_every=10",
    "sweep.space.lr.low=0.001",
    "sweep.space.lr.high=0.02",
)


@pytest.fixture(scope="module")
def tracking(cache: Path, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), environment(cache)) as address:
        yield address


def test_a_key_that_climbs_out_of_its_folder_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    assert filesystem.name_below("b/rows/part/a.jsonl", "b/rows") == "part/a.jsonl"
    for key in ("b/rows/../../../x", "b/rows/a/../../../y", "b/rows/.."):
        info = types.SimpleNamespace(path=key, size=1, mtime=None, mtime_ns=0)
        store = types.SimpleNamespace(open_input_stream=lambda path: io.BytesIO(b"evil"))
        monkeypatch.setattr(filesystem, "opened", lambda uri, store=store: (store, "b/rows"))
        monkeypatch.setattr(filesystem, "listing", lambda store, path, info=info: [info])
        with pytest.raises(OSError, match="a key with .. in it is no file's name"):
            filesystem.get("s3://b/rows")
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_folders_go_there_and_come_back(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    place = filesystem.join(bucket, "unit", "a")
    assert not filesystem.exists(place)
    with pytest.raises(FileNotFoundError):
        filesystem.get(place)
    (tmp_path / "made" / "model").mkdir(parents=True)
    (tmp_path / "made" / "model" / "x.bin").write_bytes(b"12")
    filesystem.put(tmp_path / "made", place)
    back = Path(filesystem.get(place))
    assert (back / "model" / "x.bin").read_bytes() == b"12"
    (tmp_path / "made" / "model" / "x.bin").write_bytes(b"345")
    filesystem.put(tmp_path / "made", place)
    assert (Path(filesystem.get(place)) / "model" / "x.bin").read_bytes() == b"345", (
        "a changed place is fetched anew"
    )
    (tmp_path / "made" / "model" / "x.bin").write_bytes(b"678")
    filesystem.put(tmp_path / "made", place)
    assert (Path(filesystem.get(place)) / "model" / "x.bin").read_bytes() == b"678", (
        "also by a change that shows neither in its size nor in its time"
    )
    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "TIME_STEP", 0.0)
        again = filesystem.get(place)
        assert filesystem.get(place) == again, "what does not change is fetched once"
    assert (Path(again) / "model" / "x.bin").read_bytes() == b"678"
    assert Path(filesystem.get(filesystem.join(place, "model", "x.bin"))).read_bytes() == b"678"
    filesystem.remove(place)
    assert not filesystem.exists(place)
    filesystem.remove(place)


def test_checkpoints_in_a_store_are_checked_and_the_one_before_is_taken(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    said: list[str] = []

    def made() -> CheckpointStore:
        return CheckpointStore(
            filesystem.join(bucket, "shelf", "train"), "valid/loss", False, said.append
        )

    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(bytes(range(256)))

    for step, loss in ((10, 0.1), (20, 0.5), (30, 0.4), (40, 0.3)):
        made().put(
            1, step, Snapshot(write, 256), {"step": step, "valid/loss": loss}
        )  # each by another process
    assert made().steps(1) == [10, 30, 40]
    step, folder = made().newest(1) or (0, tmp_path)
    assert step == 40 and (folder / "model" / "weights").exists() and not said
    (folder / "model" / "weights").write_bytes(b"")  # this machine's copy alone
    assert (made().newest(1) or (0,))[0] == 40 and not said
    system, path = filesystem.opened(made().at(1, 40))
    with system.open_output_stream(f"{path}/model/weights") as stream:
        stream.write(bytes(range(255)) + b"!")
    assert (made().newest(1) or (0,))[0] == 30
    assert said == [
        f"{made().at(1, 40)} is damaged (model/weights does not match its checksum); goes on from step 30"
    ]
    filesystem.remove(filesystem.join(made().at(1, 30), "SHA256SUMS"))
    filesystem.remove(made().at(1, 10))
    assert made().newest(1) is None


def test_a_file_that_others_write_and_delete_all_the_time_is_read_whole_or_is_not_there(
    bucket: str, tmp_path: Path
) -> None:
    location = filesystem.join(bucket, "changing", "claim.json")
    texts = [json.dumps({"who": "x" * length}) for length in (3, 4000, 40)]

    def change() -> None:
        draft = tmp_path / "draft"
        for turn in range(60):
            draft.write_text(texts[turn % 3])
            filesystem.put(draft, location)
            if turn % 2:
                filesystem.remove(location)

    system, path = filesystem.opened(location)
    seen = set[str]()
    with ThreadPoolExecutor(1) as pool:
        changer = pool.submit(change)
        while not (changer.done() and seen):
            if changer.done():
                changer = pool.submit(change)  # nothing was there whenever it was looked for
            with contextlib.suppress(FileNotFoundError):
                seen.add(filesystem.read(system, path).decode())
    changer.result()
    assert seen <= set(texts)


def test_a_store_that_cannot_be_used_is_one_line_and_code_2(
    bucket: str, command: Any, tracking: str
) -> None:
    for storage, text in (
        (f"{bucket}-of-others/x", "does not exist"),
        ("ftp://x/y", "neither a folder nor a URI"),
        (f"{bucket}/x", "SQLite"),
    ):
        done = command(
            f"storage={storage}", *([] if text == "SQLite" else [f"tracking.uri={tracking}"])
        )
        assert done.code == 2 and text in done.err and "Traceback" not in done.err, done.err


def run(
    toy: Path, tracking: str, storage: str, cache: Path, *arguments: str, start: bool = False
) -> Any:
    """The command on a machine of its own, which has nothing but what is in `cache`."""
    line = [
        sys.executable,
        "-m",
        "orchestrator",
        "model=tiny",
        "data=files",
        f"data.folder={toy}",
        "train.max_length=128",
        "optim.schedule=constant",
        *SWEEP,
    ]
    line += ["output=json", f"storage={storage}", f"tracking.uri={tracking}", *arguments]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(cache),
        start_new_session=True,
    )
    if start:
        return process
    out, err = process.communicate(timeout=280)
    return Finished(process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["pack", "plain"])
def test_a_lost_machine_loses_no_rung(
    bucket: str, toy: Path, tracking: str, tmp_path: Path, executor: str
) -> None:
    storage = filesystem.join(bucket, executor)
    # 100,000 steps would take minutes: the machine is lost long before.
    process = run(
        toy,
        tracking,
        storage,
        tmp_path / "first",
        f"executor={executor}",
        "train.steps=100000",
        start=True,
    )
    journals: list[str] = []
    deadline = time.monotonic() + 200
    while not any('"kind": "report"' in text for text in journals):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(1)
        journals = [file.read_text() for file in mirror_journals(bucket, executor, tmp_path)]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {
        (e["trial"], e["step"]): e["metrics"]["valid/loss"]
        for e in map(json.loads, journals[0].splitlines())
        if e["kind"] == "report"
    }
    time.sleep(1)
    sweep = next(iter(mirror_journals(bucket, executor, tmp_path))).parent.name
    filesystem.remove(
        filesystem.join(storage, "owners", sweep)
    )  # instead of waiting until its owner counts as dead
    # The lost machine had got further than the store knows; fewer steps than it did would be
    # another sweep.
    own = next((tmp_path / "first").rglob("journal.jsonl")).read_text().splitlines()
    steps = max(event["step"] for event in map(json.loads, own) if event["kind"] == "report")
    done = run(
        toy,
        tracking,
        storage,
        tmp_path / "second",
        f"executor={executor}",
        f"train.steps={steps + 100}",
    )
    assert done.code == 0, done.err
    assert done.result["sweep"] == sweep and done.result["trials"]["finished"] == 2
    events = [
        json.loads(line)
        for line in next(iter(mirror_journals(bucket, executor, tmp_path))).read_text().splitlines()
    ]
    after = {
        (e["trial"], e["step"]): e["metrics"]["valid/loss"]
        for e in events
        if e["kind"] == "report" and "valid/loss" in e["metrics"]
    }
    assert kept.items() <= after.items()


def mirror_journals(bucket: str, name: str, tmp_path: Path) -> list[Path]:
    """Copies of the journals that lie in the store."""
    system, root = filesystem.opened(filesystem.join(bucket, name))
    found = [
        info.path
        for info in filesystem.listing(system, root)
        if info.path.endswith("journal.jsonl")
    ]
    copies = []
    for path in found:
        own = tmp_path / "seen" / Path(path).parent.name / "journal.jsonl"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_bytes(filesystem.read(system, path))
        copies.append(own)
    return copies
