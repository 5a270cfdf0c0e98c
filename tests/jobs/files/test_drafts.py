"""What is written whole or not at all leaves nothing where it fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.files.drafts import complete_once, drafted, drop_drafts
from orchestrator.storage.json_files import write_json, write_sealed, write_whole


def test_a_draft_takes_its_place_or_goes(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with drafted(file, "7") as draft:
        draft.write_text("one")
        assert draft.name == "a.json.7.draft" and not file.exists()
    assert file.read_text() == "one"
    with pytest.raises(OSError, match="no room"):
        fail(file, OSError("no room"))
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "folder", KeyboardInterrupt())
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert file.read_text() == "one"


def fail(path: Path, error: BaseException) -> None:
    """Break off in the middle of a file, or of a folder where there is no suffix."""
    with drafted(path) as draft:
        if path.suffix:
            draft.write_text("tw")
        else:
            draft.mkdir()
            (draft / "half").write_text("x")
        raise error


@pytest.mark.parametrize("write", [write_whole, write_json, write_sealed])
def test_a_full_disk_leaves_no_draft(
    write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Path.write_text

    def full(self: Path, text: str, encoding: str | None = None) -> int:
        right(self, text[:1], encoding=encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    value = "text" if write is write_whole else {"a": 1}
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.json", value)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_processes_go(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    living = f"report.html.{os.getpid()}.draft"
    (tmp_path / living).write_text("of someone who looks")
    (tmp_path / f"report.html.{gone.pid}.draft").write_text("x")
    (tmp_path / "export.draft").mkdir()
    (tmp_path / "report.html").write_text("whole")
    drop_drafts(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["report.html", living]


def test_a_copy_that_someone_else_has_made_meanwhile_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "rows"
    with complete_once(target) as draft:
        draft.mkdir()
        (draft / "a").write_text("of the second", encoding="utf-8")
        target.mkdir()
        (target / "a").write_text("of the first", encoding="utf-8")
    assert (target / "a").read_text(encoding="utf-8") == "of the first"
    assert os.listdir(tmp_path) == ["rows"]


def test_a_copy_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        half_a_copy(tmp_path / "rows")
    assert os.listdir(tmp_path) == []


def half_a_copy(target: Path) -> None:
    """A copy that a full disk ends."""
    with complete_once(target) as draft:
        draft.mkdir()
        (draft / "a").write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
