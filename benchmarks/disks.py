"""Disks of their own for a storage: one that is soon full, and one that fails or stands still.
Only root may mount them.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

BLOCK = 4096


class NoDisk(Exception):
    """This machine lets nobody mount a disk, or has no program that formats one."""


class SmallDisk:
    """A file system in memory of `size`, such as 256k, mounted at a new folder."""

    def __init__(self, folder: Path, size: str) -> None:
        """Raises NoDisk where none may be mounted."""
        self.folder = folder
        self.filler = folder / "filler"
        folder.mkdir()
        line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(line, capture_output=True).returncode:
            raise NoDisk("only root may mount a file system")

    def fill(self) -> None:
        """Leave no room on it."""
        with self.filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(BLOCK)):
                pass

    def free(self) -> None:
        """Give the room back."""
        self.filler.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take it out."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class Disk:
    """A disk of `size`, such as 60M, in a file beside the new folder that it is mounted at."""

    def __init__(self, folder: Path, size: str) -> None:
        """Raises NoDisk where none may be mounted."""
        self.image = folder.with_suffix(".image")
        self.folder = folder
        folder.mkdir()
        line = ["mkfs.ext4", "-q", str(self.image), size]
        try:
            formatted = subprocess.run(line, capture_output=True).returncode == 0
        except FileNotFoundError:
            formatted = False
        if not formatted or not self.mount():
            raise NoDisk("only root may mount a disk")

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
        """Take it out, check it and put it back. Raises NoDisk where it does not come back."""
        self.remove()
        subprocess.run(["fsck.ext4", "-f", "-y", str(self.image)], capture_output=True)
        if not self.mount():
            raise NoDisk(f"{self.image} cannot be mounted again")

    def freeze(self) -> None:
        """Let every write wait."""
        subprocess.run(["fsfreeze", "--freeze", str(self.folder)], check=True, capture_output=True)

    def thaw(self) -> None:
        """Let writes go on."""
        subprocess.run(["fsfreeze", "--unfreeze", str(self.folder)], capture_output=True)

    def remove(self) -> None:
        """Take it out."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
