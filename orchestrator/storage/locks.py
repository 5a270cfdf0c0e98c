"""Who holds a storage or a sweep."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.files import filesystem
from orchestrator.errors import InputError
from orchestrator.process import lifeline
from orchestrator.storage.file_lock import Lock, is_held
from orchestrator.storage.journal import CLEANING_SECONDS
from orchestrator.storage.json_files import read_text, write_whole
from orchestrator.storage.paths import create_private, storage_folder


@contextmanager
def locked(storage: str, sweep: str | None = None) -> Iterator[None]:
    """Hold the store alone, or one sweep of a store that several commands share. Raises InputError
    naming the other process when someone else holds it. The lock ends with its process and all that
    this has started (lifeline.py); what a killed one has left is waited for.
    """
    folder = lock_folder(storage_folder(storage), sweep)
    lock = Lock(folder / ".lock")
    deadline = time.monotonic() + CLEANING_SECONDS
    try:
        if sweep is None or filesystem.is_uri(
            storage
        ):  # this machine's alone; a folder that a cluster shares belongs to a group
            create_private(storage_folder(storage))
        folder.mkdir(parents=True, exist_ok=True)
        while not lock.acquire():
            owner = read_text(folder / ".owner")
            if time.monotonic() > deadline or (
                owner and not is_gone(owner)
            ):  # without an owner someone is just coming or going
                scope = (
                    f"storage {storage}" if sweep is None else f"sweep {sweep} of storage {storage}"
                )
                in_use = f"{scope} is in use by {owner or 'another process'}"
                raise InputError(
                    f"{in_use}; wait for it to end, or use another one: storage=FOLDER"
                )
            time.sleep(0.1)
    except OSError as error:
        raise InputError(
            f"storage {storage} cannot be written: {error.strerror or error}; choose another one: "
            "storage=FOLDER"
        ) from error
    owner = f"{this_process()}, started {time.strftime('%H:%M:%S')}"
    try:
        with lifeline.opened(lock.descriptor) as line:
            line.remove_file(folder / ".owner", owner)
            write_whole(folder / ".owner", owner)
            yield
    finally:
        lock.release()


def this_process() -> str:
    """How a lock and a journal name who works."""
    return f"process {os.getpid()} on {os.uname().nodename}"


def is_gone(owner: str) -> bool:
    """Whether an owner as `locked` writes it is a process of this machine that has ended: what it
    has started is being ended, too.
    """
    match = re.match(r"process (\d+) on (\S+?),", owner)
    if match is None or match[2] != os.uname().nodename:
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    status = read_text(Path("/proc") / match[1] / "stat")
    return status.rpartition(")")[2].split()[:1] == ["Z"]


def lock_folder(folder: Path, sweep: str | None) -> Path:
    """Where the lock of a storage folder, or of one of its sweeps, lies."""
    return folder if sweep is None else folder / "locks" / sweep


def held_by(storage: Path, sweep: str | None = None) -> str | None:
    """Who holds a storage folder or one of its sweeps now, as `locked` has written it; None when
    nobody does. Looking disturbs nobody.
    """
    folder = lock_folder(storage, sweep)
    return (
        (read_text(folder / ".owner") or "another process") if is_held(folder / ".lock") else None
    )
