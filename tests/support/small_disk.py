"""A file system that is soon full, and a disk that fails."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of `size`, such as 256k, at a new folder. Skips where none may be mounted."""
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(line, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Disk:
    """A disk of its own in a file, mounted at `folder`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder

    def mount(self) -> bool:
        """Whether it could be mounted."""
        line = ["mount", "-o", "loop", str(self.image), str(self.folder)]
        return subprocess.run(line, capture_output=True).returncode == 0

    def fail(self) -> None:
        """Have the system treat it as it treats a disk with errors: nothing is written any more,
        whoever has its files open.
        """
        line = ["mount", "-o", "remount,abort", str(self.folder)]
        subprocess.run(line, check=True, capture_output=True)
        subprocess.run(["touch", str(self.folder / "touched")], capture_output=True)

    def repair(self) -> None:
        """Take it out, check it and put it back."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
        subprocess.run(["fsck.ext4", "-f", "-y", str(self.image)], capture_output=True)
        assert self.mount()


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Disk]:
    """A disk of `size`, such as 60M, at a new folder. Skips where none may be mounted."""
    image = folder.with_suffix(".image")
    folder.mkdir()
    made = Disk(image, folder)
    line = ["mkfs.ext4", "-q", str(image), size]
    try:
        formatted = subprocess.run(line, capture_output=True).returncode == 0
    except FileNotFoundError:
        formatted = False
    if not formatted or not made.mount():
        pytest.skip("only root may mount a disk")
    yield made
    subprocess.run(["umount", "-l", str(folder)], check=True)
