"""Disks of their own for tests, which are skipped where none may be mounted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.disks import Disk, NoDisk, SmallDisk


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of `size`, such as 256k, at a new folder."""
    try:
        small = SmallDisk(folder, size)
    except NoDisk as error:
        pytest.skip(str(error))
    yield folder
    small.remove()


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Disk]:
    """A disk of `size`, such as 60M, at a new folder."""
    try:
        made = Disk(folder, size)
    except NoDisk as error:
        pytest.skip(str(error))
    yield made
    made.remove()
