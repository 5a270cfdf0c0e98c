"""Real sweeps whose machine fails: damaged checkpoints, a full disk, Ctrl-C. Each ends as the
undisturbed one, to the last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.disks import Disk
from tests.support.small_disk import disk, mounted

SWEEP = (
    "+sweep=lora",
    "sweep.num_trials=3",
    "sweep.scheduler=none",
    "train.dtype=float32",
    "sweep.space.lr.low=0.001",
    "sweep.space.lr.high=0.02",
    "train.eval_every=40",
    "train.steps=160",
)
pytestmark = pytest.mark.slow


@dataclass
class Ended:
    """What a sweep has come to, without what differs from run to run."""

    adapter: str
    """Digest of the exported adapter."""
    reports: dict[tuple[int, int], dict[str, float]]
    best: int
    steps: dict[str, list[int]]
    """Run of MLflow -> the steps of its training loss."""


def events(storage: Path) -> list[dict[str, Any]]:
    """The journal."""
    found = []
    for file in storage.glob("sweeps/*/journal.jsonl"):
        for line in file.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # torn
    return found


def ended(storage: Path) -> Ended:
    """What lies in a storage."""
    export = next(storage.glob("sweeps/*/export/adapter/adapter_model.safetensors"))
    reports: dict[tuple[int, int], dict[str, float]] = {}
    for event in events(storage):
        if event["kind"] == "report":
            own = reports.setdefault((event["trial"], event["step"]), {})
            own |= {
                key: value for key, value in event["metrics"].items() if "per_second" not in key
            }
    best = json.loads(next(storage.glob("sweeps/*/result.json")).read_text())["best"]["trial"]
    return Ended(hashlib.sha256(export.read_bytes()).hexdigest(), reports, best, logged(storage))


def logged(storage: Path) -> dict[str, list[int]]:
    """Steps of the training loss by run, as MLflow's database holds them; fails when a trial has
    two runs.
    """
    with sqlite3.connect(storage / "mlflow.db") as database:
        names = database.execute(
            "select run_uuid, name from runs where lifecycle_stage = 'active'"
        ).fetchall()
        assert len({name for _, name in names}) == len(names), f"a run made twice: {names}"
        query = "select step from metrics where run_uuid = ? and key = 'train/loss' order by step"
        return {
            name: [step for (step,) in database.execute(query, (run,))]
            for run, name in names
            if name.startswith("trial-")
        }


def assert_alike(one: Ended, other: Ended) -> None:
    assert one.best == other.best
    assert one.reports == other.reports
    assert one.adapter == other.adapter
    assert (
        one.steps
        == other.steps
        == {f"trial-{index:03d}": list(range(1, 161)) for index in (1, 2, 3)}
    )


@pytest.fixture(scope="module", params=["pack", "plain"])
def executor(request: pytest.FixtureRequest) -> str:
    return f"executor={request.param}"


@pytest.fixture(scope="module")
def calm(executor: str, command: Any, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The undisturbed sweep."""
    storage = tmp_path_factory.mktemp("calm")
    done = command(*SWEEP, executor, f"storage={storage}", timeout=500)
    assert done.code == 0, done.err
    return ended(storage)


def until(
    storage: Path, process: subprocess.Popen[str], met: Callable[[list[dict[str, Any]]], bool]
) -> None:
    """Wait until the journal says so."""
    deadline = time.monotonic() + 400
    while not met(events(storage)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def reached(step: int, trials: int = 3) -> Callable[[list[dict[str, Any]]], bool]:
    """So many trials have reported a step."""
    return lambda found: (
        len({e["trial"] for e in found if e["kind"] == "report" and e["step"] >= step}) >= trials
    )


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to everything that the command has started."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True)
    for one in [process, *children]:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def places(storage: Path, trial: int) -> list[Path]:
    """A trial's checkpoints, oldest first."""
    return sorted(storage.glob(f"sweeps/*/train/trial-{trial:03d}/step-*"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_clean_stop_keeps_all_that_was_learned(
    number: int, executor: str, calm: Ended, command: Any, tmp_path: Path
) -> None:
    process = command(*SWEEP, executor, f"storage={tmp_path}", start=True)
    until(
        tmp_path,
        process,
        lambda found: any(
            e["kind"] == "metrics" and e.get("trial") and e["step"] > 90 for e in found
        ),
    )
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert json.loads(out)["state"] == "interrupted"
    kept_steps = [e["step"] for e in events(tmp_path) if e["kind"] in ("checkpoint", "report")]
    assert max(kept_steps) >= 80, "of the trial that had come beyond 90; others may just have begun"
    done = command(*SWEEP, executor, f"storage={tmp_path}", timeout=500)
    assert done.code == 0, done.err
    assert_alike(ended(tmp_path), calm)


@pytest.mark.parametrize("harm", ["flip", "all"])
def test_a_damaged_newest_checkpoint_is_named_and_changes_nothing(
    harm: str, executor: str, calm: Ended, command: Any, tmp_path: Path
) -> None:
    process = command(*SWEEP, executor, f"storage={tmp_path}", start=True)
    until(tmp_path, process, reached(40, 1))
    kill(process)
    over = {event["trial"] for event in events(tmp_path) if event["kind"] == "end"}
    newest = [
        event
        for event in events(tmp_path)
        if event["kind"] == "report" and event["trial"] not in over
    ][-1]
    folder = Path(newest["checkpoint"])
    for place in places(tmp_path, newest["trial"]) if harm == "all" else [folder]:
        flip(place / "state.safetensors")
    done = command(*SWEEP, executor, f"storage={tmp_path}", timeout=500)
    assert done.code == 0, done.err
    assert f"{folder} is damaged" in done.err and "Traceback" not in done.err
    assert_alike(ended(tmp_path), calm)


def test_a_damaged_winner_is_trained_again_rather_than_replaced(
    executor: str, calm: Ended, command: Any, tmp_path: Path
) -> None:
    done = command(*SWEEP, executor, f"storage={tmp_path}", timeout=500)
    assert done.code == 0, done.err
    assert_alike(ended(tmp_path), calm)
    next(
        tmp_path.glob("sweeps/*/result.json")
    ).unlink()  # as if the command had died before it judged
    for place in places(tmp_path, calm.best):
        flip(place / "model" / "adapter_model.safetensors")
    done = command(*SWEEP, executor, f"storage={tmp_path}", timeout=500)
    assert done.code == 0, done.err
    assert "is damaged (model/adapter_model.safetensors does not match its checksum)" in done.err
    assert_alike(ended(tmp_path), calm)


def test_scores_that_a_disk_has_changed_in_the_journal_are_not_believed(
    executor: str, calm: Ended, command: Any, tmp_path: Path
) -> None:
    """A digit of each score of another trial makes that the best one, if it is believed."""
    done = command(*SWEEP, executor, f"storage={tmp_path}", timeout=500)
    assert done.code == 0, done.err
    file = next(tmp_path.glob("sweeps/*/journal.jsonl"))
    lines = file.read_bytes().splitlines(keepends=True)
    for at, line in enumerate(lines):
        event = json.loads(line)
        if event["kind"] == "report" and event["trial"] != calm.best:
            mark = b'"valid/exact_match": 0'
            lines[at] = line.replace(mark, mark[:-1] + b"9")
            lines[at] = lines[at].replace(b'"valid/exact_match": 1', mark[:-1] + b"9")
    assert sum(line not in file.read_bytes() for line in lines) >= 4
    file.write_bytes(b"".join(lines))
    next(tmp_path.glob("sweeps/*/result.json")).unlink()
    done = command(*SWEEP, executor, f"storage={tmp_path}", timeout=500)
    assert done.code == 0, done.err
    assert f"lines of {file} cannot be read any more" in done.err and "Traceback" not in done.err
    found = ended(tmp_path)
    assert (found.best, found.adapter, found.steps) == (calm.best, calm.adapter, calm.steps)


def test_workers_that_are_killed_more_often_than_they_may_begin_again_fail_no_trial(
    executor: str, calm: Ended, command: Any, tmp_path: Path
) -> None:
    process = command(*SWEEP, executor, "train.max_failures=0", f"storage={tmp_path}", start=True)
    until(tmp_path, process, reached(40, 1))
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "was killed: by someone" in err and ": goes on with " in err
    assert not [e for e in events(tmp_path) if e["kind"] == "end" and e["state"] == "failed"]
    found = ended(tmp_path)
    assert (found.best, found.steps) == (calm.best, calm.steps)
    assert found.reports.keys() == calm.reports.keys()
    for key, metrics in found.reports.items():  # fewer slots: sums are rounded in another order
        assert metrics == pytest.approx(calm.reports[key], rel=0.01, abs=0.01)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True)
    found = [one.pid for one in children if re.search("RayTrainWorker", " ".join(one.cmdline()))]
    assert found
    return found


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    with mounted(tmp_path / "small", "40m") as folder:
        yield folder


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 80 MB."""
    with disk(tmp_path / "disk", "80M") as made:
        yield made


def refused(storage: Path, executor: str, command: Any, happens: Callable[[], None]) -> str:
    """What the command says to which this happens once a trial has come to step 40."""
    process = command(*SWEEP, executor, f"storage={storage}", start=True)
    until(storage, process, reached(40, 1))
    happens()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    return "\n".join(line for line in (out + err).splitlines() if "storage " in line)


def goes_on(storage: Path, executor: str, command: Any, calm: Ended) -> None:
    """The same command makes what it would have made undisturbed."""
    assert not [e for e in events(storage) if e["kind"] == "end" and e["state"] == "failed"]
    assert not list(storage.glob("sweeps/*/export"))
    done = command(*SWEEP, executor, f"storage={storage}", timeout=500)
    assert done.code == 0, done.err
    assert_alike(ended(storage), calm)


def test_a_full_disk_fails_no_trial(executor: str, calm: Ended, command: Any, small: Path) -> None:
    filler = small / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass

    assert "is full" in refused(small, executor, command, fill)
    filler.unlink()
    goes_on(small, executor, command, calm)


def test_a_disk_that_takes_nothing_any_more_fails_no_trial(
    executor: str, calm: Ended, command: Any, failing: Disk
) -> None:
    storage = failing.folder / "outputs"
    told = refused(storage, executor, command, failing.fail)
    assert "read-only file system" in told.lower()
    failing.repair()
    goes_on(storage, executor, command, calm)
