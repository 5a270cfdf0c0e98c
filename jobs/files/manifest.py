"""Checksums beside files, so that what a disk or a store has made of them is noticed before it is
used.

A sealed folder holds SHA256SUMS, written last, which `sha256sum -c` reads as well. Knows files
only: checkpoints.py knows checkpoints.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
UNREADABLE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.ELOOP, errno.EUCLEAN)
"""What reading says of a file that will not come back. Anything else may pass: a lost permission, a
server that is away.
"""


@dataclass(frozen=True)
class Snapshot:
    """What writes the files of a checkpoint into a folder, and about how many bytes they are."""

    save: Callable[[Path], None]
    num_bytes: int

    def __call__(self, folder: Path) -> None:
        """Write them."""
        self.save(folder)


class Damaged(RuntimeError):
    """Files that are not what was written: never finished, cut, changed or gone."""

    def __init__(self, location: str, why: str) -> None:
        super().__init__(location, why)
        self.place = location
        self.why = why

    def __str__(self) -> str:
        return f"{self.place} is damaged ({self.why})"


def seal(folder: Path) -> None:
    """Write the checksums of all files below a folder, and have the disk hold them all. Raises
    OSError.
    """
    sums = {name: digest(folder / name, flush=True) for name in files(folder)}
    draft = folder / f"{NAME}.draft"
    with draft.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{value}  {name}\n" for name, value in sums.items())
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, folder / NAME)
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        flush_folder(inner)


def check(folder: Path, location: str | None = None, ignored: Collection[str] = ()) -> None:
    """Raise Damaged unless a folder holds what was sealed, whole and nothing else; OSError when
    that cannot be told now.

    `location` names the folder where it is a copy of something else; `ignored` are the names of
    files that other programs put there.
    """
    location = location or str(folder)
    if not folder.is_dir():
        raise Damaged(location, "it is gone")
    sums = read(folder, location)
    present = set(files(folder)) - set(ignored)
    for name in sorted(sums.keys() | present):
        if name not in sums:
            raise Damaged(location, f"{name} is not in its {NAME}")
        try:
            changed = digest(folder / name) != sums[name]
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise Damaged(location, f"{name}: {(error.strerror or str(error)).lower()}") from error
        if changed:
            raise Damaged(location, f"{name} does not match its checksum")


def read(folder: Path, location: str) -> dict[str, str]:
    """The checksums of a sealed folder by name. Raises Damaged when they cannot be read."""
    try:
        text = (folder / NAME).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise Damaged(location, f"its {NAME} cannot be read") from error
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        raise Damaged(
            location, f"its {NAME} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    lines = text.split("\n")
    matches = [LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not matches or None in matches:
        raise Damaged(location, f"its {NAME} is cut or changed")
    return {match[2]: match[1] for match in matches if match is not None}


def files(folder: Path) -> list[str]:
    """The names of all files below a folder, but for the checksums themselves."""
    listed = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    ]
    return sorted(name for name in listed if name not in (NAME, f"{NAME}.draft"))


def digest(file: Path, flush: bool = False) -> str:
    """A file's SHA-256, a piece at a time; with `flush` once the disk holds it."""
    with file.open("rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder, where its file system can be asked for that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
