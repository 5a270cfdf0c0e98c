"""Which lines of a journal the tracking store has been told: a short digest of each, in order, in a
file beside the cursor.

Someone may cut or edit the journal between two commands. Then the cursor points anywhere, and only
the lines themselves tell what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jobs.files.drafts import drafted

WIDTH = 8
"""Bytes of a digest."""


def digest(line: bytes) -> bytes:
    """What a line is known by."""
    return hashlib.blake2b(line, digest_size=WIDTH).digest()


class Told:
    """The digests in the file. Losing it costs time: then the store is asked what it holds."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> list[bytes]:
        """All digests; a torn one at the end is left out."""
        try:
            content = self.file.read_bytes()
        except OSError:
            return []
        return [
            content[start : start + WIDTH] for start in range(0, len(content) - WIDTH + 1, WIDTH)
        ]

    def keep(self, digests: Iterable[bytes]) -> None:
        """Have these digests alone in the file."""
        with drafted(self.file) as draft:
            draft.write_bytes(b"".join(digests))

    def add(self, count: int, digests: Iterable[bytes]) -> None:
        """Have these digests follow the first `count`, whatever an attempt that broke off has left
        there.
        """
        self.file.touch()
        with self.file.open("r+b") as stream:
            stream.seek(count * WIDTH)
            stream.write(b"".join(digests))
            stream.truncate()
