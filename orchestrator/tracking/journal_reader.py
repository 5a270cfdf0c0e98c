"""The reading side of a sweep's journal: events from an offset, and how lines are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from orchestrator.storage.journal_lines import event_of
from orchestrator.tracking.delivered_lines import digest
from orchestrator.tracking.events import Event

CHUNK_EVENTS = 20_000
CHUNK_BYTES = 8 << 20


class JournalReader:
    """The reading side of journal.jsonl."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def identity(self) -> str | None:
        """Hash of the first line; None before there is one."""
        first = next(self._lines(0), None)
        return None if first is None else hashlib.sha256(first).hexdigest()[:16]

    def read(
        self, offset: int, skip: set[bytes] | None = None
    ) -> tuple[list[tuple[int, Event]], int, list[bytes]]:
        """The next events with their offsets, the offset behind them, and the digests of all lines.
        A torn line, whose writer died over it, and one that a disk has changed are no events. Lines
        whose digest is in `skip` are left out.
        """
        events = []
        start = offset
        digests = []
        for line in self._lines(offset):
            digests.append(digest(line))
            if skip and digests[-1] in skip:
                offset += len(line)
                continue
            event = event_of(line)
            if event is not None:
                events.append((offset, event))
            offset += len(line)
            if len(events) >= CHUNK_EVENTS or offset - start > CHUNK_BYTES:
                break
        return events, offset, digests

    def digests(self, end: int) -> list[bytes] | None:
        """The digests of all lines before an offset; None when no line begins there."""
        digests_before = []
        offset = 0
        for line in self._lines(0):
            if offset >= end:
                break
            digests_before.append(digest(line))
            offset += len(line)
        return digests_before if offset == end else None

    def begins_line(self, offset: int) -> bool:
        """Whether a line can begin at an offset."""
        if offset == 0:
            return True
        with self.file.open("rb") as stream:
            stream.seek(offset - 1)
            return stream.read(1) == b"\n"

    def holds(self, digests: set[bytes]) -> bool:
        """Whether any of its lines is one of these."""
        return any(digest(line) in digests for line in self._lines(0))

    def count(self, offset: int) -> int:
        """Complete lines from `offset` on."""
        return sum(1 for _ in self._lines(offset))

    def _lines(self, offset: int) -> Iterator[bytes]:
        if not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                yield line
