"""Where a sweep lies."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from urllib.parse import unquote

from jobs.files import cache, filesystem
from orchestrator.storage.json_files import read_text


def sweep_folder(storage: str, name: str) -> Path:
    """Where a sweep keeps everything, as an absolute path."""
    return storage_folder(storage) / "sweeps" / name


def storage_folder(storage: str) -> Path:
    """The storage setting as an absolute path; of an object store this machine's working copy, see
    mirror.py.
    """
    if filesystem.is_uri(storage):
        return (
            cache.cache_folder()
            / "storage"
            / hashlib.sha256(storage.rstrip("/").encode()).hexdigest()[:12]
        )
    folder = unquote(storage.removeprefix("file://")) if storage.startswith("file://") else storage
    return Path(os.path.expanduser(folder)).absolute()


def create_private(folder: Path) -> None:
    """Make a folder that only this user can open, unless it is there: then it may be shared, and
    its rights are its owner's business.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def forget(folder: Path, submission: str | None = None) -> None:
    """Remove what an earlier run of the sweep has left, but not what an earlier attempt of the same
    submission to a cluster has done.
    """
    submission_file = folder / ".submission"
    if submission is not None and read_text(submission_file) == submission:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if submission is not None:
        folder.mkdir(parents=True)
        submission_file.write_text(submission, encoding="utf-8")
