"""Files that are written whole or not at all: beside their place, and then put into it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def drafted(path: Path, writer: str = "") -> Iterator[Path]:
    """A file or folder to write beside `path`, which then takes its place; where that fails, as on
    a full disk, nothing is left of it. Where several may write at the same time, each is a `writer`
    of its own.
    """
    draft = path.with_name(f"{path.name}{writer and f'.{writer}'}.draft")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        remove(draft)
        raise


@contextlib.contextmanager
def complete_once(target: Path) -> Iterator[Path]:
    """A draft of a copy that several processes may make at the same time, under a name that tells
    its content: whoever is last leaves what the first has put there.
    """
    try:
        with drafted(target, str(os.getpid())) as draft:
            yield draft
    except OSError:
        if not target.exists():
            raise


def drop_drafts(folder: Path) -> None:
    """Remove what killed processes have left of their drafts in a folder that is ours alone now;
    a process that lives may be writing its own, such as a report of someone who looks.
    """
    for draft in folder.glob("*.draft"):
        writer = draft.name.split(".")[-2]
        if not (writer.isdigit() and lives(int(writer))):
            remove(draft)


def lives(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove(draft: Path) -> None:
    """Remove a draft, as far as the disk allows."""
    with contextlib.suppress(OSError):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink()
