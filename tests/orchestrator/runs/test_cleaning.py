"""What `runs clean` removes of a folder and of an object store, and what it leaves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.files import filesystem
from orchestrator.runs import cli
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.storage.journal import Journal
from orchestrator.storage.locks import locked
from tests.support.journals import write_sweep
from tests.support.object_store import BUCKET, s3_server

RUNGS = (80, 240, 480)


def write_checkpoints(folder: Path) -> dict[int, list[int]]:
    """Three checkpoints of each trial, a draft, and what Ray Tune leaves; returns the rungs that
    each trial has come to.
    """
    records = Journal(folder).records()
    for index in records:
        for step in RUNGS:
            place = folder / "train" / f"trial-{index:03d}" / f"step-{step:06d}"
            place.mkdir(parents=True)
            (place / "state").write_bytes(bytes(1000))
    draft = folder / "train" / "trial-001" / "draft-step-000240"
    draft.mkdir()
    (draft / "state").write_bytes(bytes(1000))
    (folder / "tune" / "x").mkdir(parents=True)
    (folder / "tune" / "x" / "y").write_bytes(bytes(1000))
    return {index: sorted(record.reports) for index, record in records.items()}


def age(folder: Path) -> None:
    """As if everything had been written an hour ago."""
    past = time.time() - 3600
    for file in folder.rglob("*"):
        os.utime(file, (past, past))


def kept(folder: Path) -> dict[int, list[int]]:
    """The checkpoints that are there."""
    there: dict[int, list[int]] = {}
    for place in folder.glob("train/trial-*/step-*"):
        there.setdefault(int(place.parent.name[6:]), []).append(int(place.name[5:]))
    return {index: sorted(steps) for index, steps in there.items()}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def tool(capsys: pytest.CaptureFixture[str], storage: Any, *words: str) -> Any:
    code = cli.main([*words, "--json", "--storage", str(storage)])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


def test_a_finished_sweep_keeps_what_it_would_go_on_from(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(storage / "sweeps" / "lora-1", 6)
    reached = write_checkpoints(folder)
    age(folder)
    shown = tool(capsys, storage, "show", "lora-1")
    assert "of checkpoints" in shown["size"]
    before = kept(folder)
    tried = tool(capsys, storage, "clean", "lora-1", "--dry-run")
    assert kept(folder) == before and tried["removed_bytes"] > 10_000
    done = tool(capsys, storage, "clean", "lora-1")
    assert done["removed_bytes"] == tried["removed_bytes"]
    winner = json.loads((folder / "result.json").read_text())["best"]["trial"]
    there = kept(folder)
    assert set(there) == {winner}, "one finalist: the others can win no more"
    assert max(reached[winner]) in there[winner] and len(there[winner]) < 3 + 1
    assert not (folder / "tune").exists() and not list(folder.glob("train/*/draft-*"))
    assert (folder / "journal.jsonl").exists() and (folder / "result.json").exists()
    assert tool(capsys, storage, "clean")["removed_bytes"] == 0


def test_of_an_unfinished_sweep_only_spares_go(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(storage / "sweeps" / "lora-1", 4, judged=False)
    lines = (folder / "journal.jsonl").read_text().splitlines()
    lines = [line for line in lines if "sweep_end" not in line and '"end"' not in line]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    reached = write_checkpoints(folder)
    age(folder)
    tool(capsys, storage, "clean")
    there = kept(folder)
    assert set(there) == set(reached)
    for index, steps in there.items():
        assert 480 in steps, "the newest"
        assert max(reached[index]) in steps, "the last rung"
    assert not list(folder.glob("train/*/draft-*"))


def test_a_sweep_that_runs_is_left_as_it_is(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(storage / "sweeps" / "lora-1", 3, judged=False)
    lines = [line for line in (folder / "journal.jsonl").read_text().splitlines() if line]
    lines = [line for line in lines if "sweep_end" not in line]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    write_checkpoints(folder)
    before = kept(folder)
    told = tool(capsys, storage, "clean")
    assert told["sweeps"][0]["kept_because"] == "it runs", "it was written just now"
    age(folder)
    with locked(str(storage)):
        told = tool(capsys, storage, "clean")
        assert LocalRuns(str(storage)).listed()[0]["state"] == "running"
    assert told["sweeps"][0]["kept_because"] == "it runs" and kept(folder) == before


def test_wrong_words_are_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(storage / "sweeps" / "lora-1", 3)
    assert cli.main(["clean", "lora-2", "--storage", str(storage)]) == 2
    assert "no sweep lora-2; what it has: lora-1" in capsys.readouterr().err
    for words in (["clean", "a", "b"], ["list", "--dry-run"]):
        with pytest.raises(SystemExit) as caught:
            cli.main([*words, "--storage", str(storage)])
        assert caught.value.code == 2


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield f"{BUCKET}/team"


def test_an_object_store_is_cleaned_alike(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(tmp_path / "local" / "lora-1", 4)
    write_checkpoints(folder)
    filesystem.put(folder, f"{bucket}/sweeps/lora-1")
    assert "of checkpoints" in tool(capsys, bucket, "show", "lora-1")["size"]
    told = tool(capsys, bucket, "clean", "lora-1")
    assert told["removed_bytes"] > 8_000
    system, root = filesystem.opened(f"{bucket}/sweeps/lora-1")
    names = {
        info.path.removeprefix(f"{root}/").split("/step-")[0]
        for info in filesystem.listing(system, root)
    }
    winner = json.loads((folder / "result.json").read_text())["best"]["trial"]
    assert {name for name in names if name.startswith("train/")} == {f"train/trial-{winner:03d}"}
    assert {"journal.jsonl", "result.json"} <= names
    assert tool(capsys, bucket, "clean", "lora-1")["removed_bytes"] == 0
