"""What is removed of a full disk, and what is not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.files import storage_faults
from jobs.files.checkpoints import CheckpointStore
from jobs.files.manifest import Snapshot
from jobs.files.spare_checkpoints import folder_bytes, remove_spare, spare_in
from tests.support.small_disk import mounted


def snapshot(num_bytes: int) -> Snapshot:
    def write(folder: Path) -> None:
        (folder / "state").write_bytes(os.urandom(num_bytes))

    return Snapshot(write, num_bytes)


def shelf(place: Path, said: list[str] | None = None) -> CheckpointStore:
    return CheckpointStore(
        str(place), "valid/loss", False, (said if said is not None else []).append, 2
    )


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(storage_faults, "PAUSES", (0.01,))
    with mounted(tmp_path / "small", "512k") as folder:
        yield folder


def test_the_newest_the_best_and_the_last_rung_are_no_spare(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    for step, loss in ((10, 0.5), (20, 0.1), (30, 0.4), (40, 0.3)):
        store.put(1, step, snapshot(10), {"valid/loss": loss})
    assert store.steps(1) == [20, 30, 40]
    home = tmp_path / "trial-001"
    assert [folder.name for folder in spare_in(home, store.score)] == ["step-000030"]
    store.put(1, 45, snapshot(10))  # a pause
    assert store.steps(1) == [20, 40, 45]
    assert spare_in(home, store.score) == []


def test_a_draft_that_nobody_writes_to_is_removed_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    store.put(1, 10, snapshot(10), {"valid/loss": 1.0})
    old, new = tmp_path / "trial-001" / "draft-old", tmp_path / "trial-001" / "draft-new"
    for draft in (old, new):
        draft.mkdir()
        (draft / "state").write_bytes(bytes(500))
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    assert remove_spare(tmp_path, store.score) == (1, 500)
    assert new.exists() and not old.exists() and store.steps(1) == [10]


def test_a_full_disk_is_relieved_of_spares_and_the_training_goes_on(small: Path) -> None:
    said: list[str] = []
    (small / "sweep").mkdir()
    store = shelf(small / "sweep" / "train", said)
    for step, loss in ((10, 0.5), (20, 0.4), (30, 0.3)):
        store.put(2, step, snapshot(60_000), {"valid/loss": 0.9 - loss})
    store.put(1, 10, snapshot(60_000), {"valid/loss": 1.0})
    (small / "filler").write_bytes(bytes(200_000))
    place = store.put(1, 20, snapshot(60_000), {"valid/loss": 0.9})
    assert Path(place).is_dir() and folder_bytes(Path(place)) > 60_000
    assert any("can no longer win are removed" in line and "goes on" in line for line in said)
    assert store.steps(2) == [10, 30], "the best and the newest are there"
    assert store.newest(1) == (20, Path(place))
