"""What the machine does to a sweep: a disk that is full, a storage that is gone. Never a trial's
fault, so nobody is judged by it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PAUSES = (1.0, 2.0, 4.0)
"""Seconds between the attempts at what the storage refuses; after the last one the sweep stops."""
FULL = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has reached its quota",
    errno.EFBIG: "takes no larger files (see ulimit -f)",
}
PROBE_BYTES = 1 << 16


class Refused(OSError):
    """What the storage has refused for good, as the user is told it."""

    def __str__(self) -> str:
        return str(self.args[1])


def patiently(attempt: Callable[[], T], say: Callable[[str], None] = lambda text: None) -> T:
    """What `attempt` returns. An OSError may pass, so it is tried again some times; the last one is
    raised.
    """
    for pause in PAUSES:
        try:
            return attempt()
        except OSError as error:
            say(f"{first_line(error)}; tries again in {pause:g} s")
            time.sleep(pause)
    return attempt()


def first_line(error: BaseException) -> str:
    """An error's first line, cut to what a person reads."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


def told(error: OSError, location: str, bytes_each: int = 0, copies: int = 0) -> str:
    """What the machine refuses and what helps, in one line. `bytes_each` is a checkpoint's size,
    `copies` how many may still come.
    """
    if isinstance(error, Refused):
        return str(error)
    if error.errno not in FULL:
        cause = (error.strerror or first_line(error)).rstrip(".")
        file = "" if error.filename is None else os.path.abspath(str(error.filename))
        inside = not file or file.startswith(location) or file.startswith(os.path.abspath(location))
        subject = f"storage {location}" if inside else file
        named = f" ({file})" if inside and file not in ("", location) else ""
        return (
            f"{subject} cannot be used: {cause[:1].lower() + cause[1:]}{named}; mend that, and "
            "the same command continues"
        )
    if "://" in location:  # a store has room; what is copied to it is written here first
        subject = "the folder for temporary files"
        location = tempfile.gettempdir()
    else:
        subject = "storage"
    room = ""
    free = free_bytes(location)
    if free is not None and error.errno == errno.ENOSPC:
        room = f": {size(free)} free"
    if bytes_each:
        room += f"{',' if room else ':'} a checkpoint takes {size(bytes_each)}"
    remedy = (
        f"free {size(bytes_each * max(copies, 1))} there" if bytes_each else "free some space there"
    )
    return (
        f"{subject} {location} {FULL[error.errno]}{room}; {remedy}, and the same command continues"
    )


def free_bytes(location: str) -> int | None:
    """Room in the file system that holds a folder; None for what is no folder."""
    folder = Path(location)
    with contextlib.suppress(OSError, IndexError):
        return shutil.disk_usage(
            next(path for path in (folder, *folder.parents) if path.is_dir())
        ).free
    return None


def size(count: float) -> str:
    """12 KB, 3.4 MB, 1.2 GB"""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} KB"


def probe(folder: Path, num_bytes: int = PROBE_BYTES) -> OSError | None:
    """Why a folder cannot be written now; None when it can."""
    try:
        handle, name = tempfile.mkstemp(prefix=".probe-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(bytes(num_bytes))
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            os.unlink(name)
    except OSError as error:
        return error
    return None


def cause(error: BaseException | None) -> OSError | None:
    """The machine's error in a chain of errors."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        if isinstance(error, OSError):
            return error
        visited.add(id(error))
        error = error.__cause__ or error.__context__
    return None
