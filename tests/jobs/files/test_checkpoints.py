"""Checkpoints on disk: what was cut, changed or lost is noticed and named, and what is kept is
enough to go on from.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.config import BaseModel
from jobs.files import checkpoints, manifest, storage_faults
from jobs.files.checkpoints import (
    MOST_EARLIER,
    CheckpointStore,
    checkpoint_of,
    fetched,
    reports_in,
)
from jobs.files.manifest import Damaged, Snapshot
from jobs.files.storage_faults import Refused
from jobs.pack.engine import Pack
from jobs.training.finetune import Hooks, finetune
from tests.support.plain import make
from tests.support.small_disk import mounted


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_faults, "PAUSES", (0.01, 0.01))


@pytest.fixture(scope="module", params=["pack", "plain"])
def sealed(
    request: pytest.FixtureRequest,
    base: BaseModel,
    rows: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A real checkpoint of either executor, taken at a rung."""
    home = CheckpointStore(str(tmp_path_factory.mktemp("sweep") / "train"), "valid/loss", False)
    trial = make(rows, steps=2, eval_every=2)
    if request.param == "plain":

        def rung(metrics: dict[str, float], save: Snapshot) -> None:
            home.put(1, 2, save, metrics)

        finetune(trial, base, Hooks(rung))
    else:
        pack = Pack(base, trial)
        pack.join(1, trial)
        pack.step([1])
        pack.step([1])
        home.put(1, 2, pack.slots[1].snapshot(), {"step": 2, "valid/loss": 1.0})
    return Path(home.at(1, 2))


@pytest.fixture
def checkpoint(sealed: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    place = tmp_path / "train" / "trial-001" / "step-000002"
    shutil.copytree(sealed, place)
    fetched(str(place))
    return place


def test_a_checkpoint_carries_the_reports_of_the_rungs_before_it(tmp_path: Path) -> None:
    home = CheckpointStore(str(tmp_path / "train"), "valid/loss", False)
    empty = Snapshot(lambda folder: None, 0)
    reports = [{"step": step, "valid/loss": 1.0 / step} for step in (10, 20, 30)]
    (tmp_path / "train").mkdir()
    at_rung = home.put(1, 30, empty, reports[2], reports[:2])
    assert reports_in(at_rung) == reports
    between = home.put(1, 34, empty, earlier=reports)
    assert reports_in(between) == reports
    assert reports_in(home.put(2, 4, empty)) == []
    assert checkpoint_of(between, 30) == at_rung
    assert checkpoint_of(between, 10) is None, "it was never kept"
    fetched(between)
    many = [{"step": step} for step in range(1, 500)]
    carried = reports_in(home.put(3, 500, empty, {"step": 500}, many))
    assert len(carried) == MOST_EARLIER + 1 and carried[-1] == {"step": 500}


def contents(folder: Path) -> list[Path]:
    """All files of a checkpoint."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_holds_no_pickle_and_its_checksums_are_those_of_sha256sum(
    checkpoint: Path,
) -> None:
    assert {file.suffix for file in contents(checkpoint)} <= {".safetensors", ".json", ".md", ""}
    done = subprocess.run(
        ["sha256sum", "-c", manifest.NAME], cwd=checkpoint, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("OK") == len(contents(checkpoint)) - 1


def test_a_bit_that_flips_anywhere_in_any_file_is_noticed(checkpoint: Path) -> None:
    for file in contents(checkpoint):
        content = file.read_bytes()
        places = {
            int(share * (len(content) - 1)) for share in (0, 0.001, 0.1, 0.33, 0.5, 0.77, 0.999, 1)
        }
        for place in sorted(places):
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 8)
            file.write_bytes(changed)
            with pytest.raises(Damaged) as caught:
                fetched(str(checkpoint))
            assert str(checkpoint) in str(caught.value) and "\n" not in str(caught.value)
        file.write_bytes(content)
    fetched(str(checkpoint))


def test_a_file_that_is_cut_anywhere_is_noticed(checkpoint: Path) -> None:
    for file in contents(checkpoint):
        content = file.read_bytes()
        for length in sorted(
            {0, 1, len(content) // 3, len(content) // 2, len(content) - 64, len(content) - 1}
        ):
            if length < 0:
                continue
            file.write_bytes(content[:length])
            with pytest.raises(Damaged):
                fetched(str(checkpoint))
        file.write_bytes(content + b"\n")
        with pytest.raises(Damaged):
            fetched(str(checkpoint))
        file.write_bytes(content)


def test_a_file_that_is_lost_or_is_something_else_or_was_added_is_named(checkpoint: Path) -> None:
    for file in contents(checkpoint):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(Damaged, match=file.name):
            fetched(str(checkpoint))
        file.mkdir()
        with pytest.raises(Damaged, match=file.name):
            fetched(str(checkpoint))
        file.rmdir()
        file.symlink_to(file)
        with pytest.raises(Damaged, match=file.name):
            fetched(str(checkpoint))
        file.unlink()
        file.write_bytes(content)
    (checkpoint / "model" / "other.bin").touch()
    with pytest.raises(Damaged, match=r"other\.bin is not in its SHA256SUMS"):
        fetched(str(checkpoint))
    shutil.rmtree(checkpoint)
    with pytest.raises(Damaged, match="it is gone"):
        fetched(str(checkpoint))


def test_a_list_of_checksums_that_lost_a_line_is_not_believed(checkpoint: Path) -> None:
    file = checkpoint / manifest.NAME
    lines = file.read_text().splitlines(keepends=True)
    for number in range(len(lines)):
        file.write_text("".join(lines[:number] + lines[number + 1 :]))
        with pytest.raises(Damaged):
            fetched(str(checkpoint))


def writing(text: str) -> Snapshot:
    """What writes a small model and state."""

    def save(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text)
        (folder / "state").write_text(text * 2)

    return Snapshot(save, 3 * len(text))


def made(tmp_path: Path, said: list[str] | None = None) -> CheckpointStore:
    """A shelf by accuracy, higher being better."""
    return CheckpointStore(
        str(tmp_path / "train"),
        "valid/exact_match",
        True,
        (said if said is not None else []).append,
    )


def test_the_newest_the_one_before_and_the_best_are_kept(tmp_path: Path) -> None:
    kept = made(tmp_path)
    for step, score in ((10, 0.3), (20, 0.9), (30, 0.5), (40, 0.4), (50, 0.1)):
        kept.put(1, step, writing("x"), {"valid/exact_match": score})
    assert kept.steps(1) == [20, 40, 50]
    kept.put(1, 53, writing("x"))  # a pause, at no rung
    assert kept.steps(1) == [20, 50, 53]
    again = made(tmp_path)  # another process
    again.put(1, 60, writing("x"), {"valid/exact_match": float("nan")})
    assert again.steps(1) == [20, 50, 60], "a rung is kept rather than a pause"


def test_a_damaged_one_is_named_in_one_line_and_the_one_before_it_is_taken(tmp_path: Path) -> None:
    said: list[str] = []
    kept = made(tmp_path, said)
    assert kept.newest(1) is None
    for step in (10, 20, 30):
        kept.put(1, step, writing(f"{step}"), {"valid/exact_match": 1 / step})
    (Path(kept.at(1, 30)) / "state").write_bytes(b"")
    assert kept.newest(1) == (20, Path(kept.at(1, 20)))
    assert said == [
        f"{kept.at(1, 30)} is damaged (state does not match its checksum); goes on from step 20"
    ]
    for step in (10, 20):
        (Path(kept.at(1, step)) / "model" / "weights").write_text("")
    assert kept.newest(1) is None
    assert len(said) == 4 and all(line.endswith("goes on from the start") for line in said[1:])


def test_an_unreadable_report_costs_no_more_than_its_score(tmp_path: Path) -> None:
    kept = made(tmp_path)
    for step in (10, 20):
        kept.put(1, step, writing("x"), {"valid/exact_match": 0.5})
    (Path(kept.at(1, 10)) / checkpoints.REPORT).write_text("[")
    again = made(tmp_path)
    again.put(1, 30, writing("x"), {"valid/exact_match": 0.1})
    assert again.steps(1) == [20, 30]


def test_what_a_broken_off_write_leaves_is_no_checkpoint(tmp_path: Path) -> None:
    kept = made(tmp_path)
    kept.put(1, 10, writing("x"))

    def broken(folder: Path) -> None:
        writing("y").save(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.put(1, 20, Snapshot(broken, 1))
    assert kept.steps(1) == [10]


def test_an_error_that_passes_is_tried_again_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    kept, attempts = made(tmp_path, said), []

    def flaky(folder: Path) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError(errno.EIO, "Input/output error")
        writing("x").save(folder)

    fetched(kept.put(1, 10, Snapshot(flaky, 1)))
    assert len(attempts) == 3 and len(said) == 2 and "Input/output error; tries again" in said[0]


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE, errno.EDQUOT]
)
def test_an_error_that_stays_is_told_in_one_line(number: int, tmp_path: Path) -> None:
    attempts = []

    def save(folder: Path) -> None:
        attempts.append(1)
        raise OSError(number, os.strerror(number), str(folder))

    kept = made(tmp_path)
    with pytest.raises(
        Refused, match=f"storage {tmp_path}/train .*the same command continues"
    ) as caught:
        kept.put(1, 10, Snapshot(save, 123_000))
    assert len(attempts) == 3 and caught.value.errno == number and "\n" not in str(caught.value)
    assert kept.steps(1) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    with mounted(tmp_path / "small", "256k") as folder:
        yield folder


def test_a_full_disk_is_told_with_what_is_free_and_what_is_needed(small: Path) -> None:
    kept = CheckpointStore(str(small / "train"), "valid/loss", False, num_trials=2)
    kept.put(1, 10, writing("x" * 20_000))
    (small / "filler").write_bytes(bytes(180_000))
    with pytest.raises(
        Refused,
        match=r"is full: \d+ KB free, a checkpoint takes 60 KB; free 360 KB there, and the same command",
    ):
        kept.put(1, 20, writing("x" * 20_000))
    with pytest.raises(Refused, match="is full"):  # one that takes more than it said
        kept.put(1, 20, Snapshot(writing("x" * 20_000).save, 0))
    assert kept.steps(1) == [10]
    (small / "filler").unlink()
    kept.put(1, 20, writing("x" * 20_000))
    assert kept.newest(1) == (20, Path(kept.at(1, 20)))


def test_a_storage_that_turns_read_only_or_goes_away_fails_no_checkpoint_that_is_there(
    small: Path,
) -> None:
    kept = CheckpointStore(str(small / "sweep" / "train"), "valid/loss", False)
    (small / "sweep").mkdir()
    kept.put(1, 10, writing("x"))
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(Refused, match="read-only file system"):
        kept.put(1, 20, writing("x"))
    assert kept.newest(1) == (10, Path(kept.at(1, 10)))
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    place = kept.at(1, 10)
    (small / "sweep").rename(small / "elsewhere")
    with pytest.raises(Refused, match="no such file"):
        kept.put(1, 20, writing("x"))
    assert not (small / "sweep").exists(), "it is not made anew"
    with pytest.raises(FileNotFoundError):  # not Damaged: it may come back
        fetched(place)


def test_a_full_folder_for_temporary_files_is_not_taken_for_a_full_store() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert storage_faults.told(full, "s3://bucket/train", 1000, 2).startswith(
        f"the folder for temporary files {tempfile.gettempdir()} is full: "
    )
    gone = OSError("When listing objects under key 'x': AWS Error NETWORK_CONNECTION\nand more")
    assert storage_faults.told(gone, "s3://bucket/train") == (
        "storage s3://bucket/train cannot be used: when listing objects under key 'x': AWS Error NETWORK_CONNECTION; "
        "mend that, and the same command continues"
    )


LIMITED = """
import errno, resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from jobs.files import storage_faults
from jobs.files.checkpoints import CheckpointStore
from jobs.files.manifest import Snapshot
storage_faults.PAUSES = ()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
kept = CheckpointStore(sys.argv[1], "valid/loss", False)
kept.put(1, 1, Snapshot(lambda folder: save_file({"a": torch.ones(1000)}, str(folder / "a.safetensors")), 4000))
try:
    kept.put(1, 2, Snapshot(lambda folder: save_file({"a": torch.ones(9000)}, str(folder / "a.safetensors")), 36000))
except storage_faults.Refused as error:
    print(error.errno == errno.EFBIG, error)
print(kept.steps(1))
"""


def test_a_limit_on_the_size_of_files_is_told_as_such(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "train")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "True storage" in done.stdout and "takes no larger files (see ulimit -f)" in done.stdout
    assert done.stdout.splitlines()[-1] == "[1]"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_permission_that_is_lost_is_not_taken_for_damage(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        kept = made(tmp_path)
        place = Path(kept.put(1, 10, writing("x")))
        (place / "state").chmod(0)
        with pytest.raises(PermissionError):
            fetched(str(place))
        return
    code = (
        "import os, sys; from jobs.files.checkpoints import fetched; from jobs.files import storage_faults;"
        "storage_faults.PAUSES = (); os.setuid(65534)\ntry:\n fetched(sys.argv[1])\nexcept PermissionError:\n print('not told')"
    )
    place = Path(made(tmp_path).put(1, 10, writing("x")))
    for folder in (place, *place.parents):
        if folder.is_relative_to(tmp_path.parent.parent):
            folder.chmod(0o755)
    (place / "state").chmod(0)
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True)
    assert done.stdout == "not told\n", done.stderr


def test_a_large_file_is_hashed_a_piece_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate(200 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(manifest.digest(file)) == 64
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
