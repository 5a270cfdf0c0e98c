"""A sweep's journal as someone reads it who only looks on: again and again while it grows, each
line once.
"""

from __future__ import annotations

from pathlib import Path

from jobs.files.json_types import JsonObject
from orchestrator.storage.journal import Record, is_event, replay
from orchestrator.storage.journal_lines import event_of
from orchestrator.storage.spending import Spent, spent_of

HEAD_BYTES = 256


class History:
    """What a journal tells so far. `update` reads on from where the last reading ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "journal.jsonl"
        self._forget()

    def _forget(self) -> None:
        """As if nothing had been read."""
        self._offset = 0
        self._head = b""
        self.records: dict[int, Record] = {}
        self.total: int | None = None
        self.copies: set[int] = set()
        """Changed copies that were asked for while the sweep ran."""
        self.started: float | None = None
        """When the sweep was started for the first time, in seconds since the epoch."""
        self.by: str | None = None
        """Which process has started it last, as the store's lock names it."""
        self.ended: float | None = None
        """When it has ended; None while its last start has no end."""
        self.state: str | None = None
        self.error: str | None = None
        self.spent: Spent | None = None
        """What all commands of the sweep have spent."""

    def update(self) -> list[JsonObject]:
        """Read what has been appended since the last time and return its events; all, when the
        journal was begun anew meanwhile.
        """
        try:
            with self.file.open("rb") as stream:
                head = stream.read(HEAD_BYTES)
                if not head.startswith(self._head) or stream.seek(0, 2) < self._offset:
                    self._forget()
                self._head = head
                stream.seek(self._offset)
                added = stream.read()
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return []
        events = []
        for line in added.splitlines(keepends=True):
            event = event_of(line)
            if event is None and not line.endswith(b"\n"):
                # its writer is still at it, or has died there; then the next line begins behind a
                # line break
                break
            self._offset += len(line)
            if event is not None and is_event(event):
                self._take(event)
                events.append(event)
        return events

    def _take(self, event: JsonObject) -> None:
        """Bring everything up to date with one event."""
        kind = event["kind"]
        if kind == "sweep":
            self.started = self.started if self.started is not None else event["t"] / 1000
            self.total = event["params"].get("sweep.num_trials")
            self.by = event.get("by")
            self.ended = self.state = self.error = None
        elif kind == "sweep_end":
            self.ended = event["t"] / 1000
            self.state = event["state"]
            self.error = event.get("error")
        elif kind == "metrics" and event.get("trial") is None:
            self.spent = spent_of(event.get("metrics") or {}) or self.spent
        elif kind == "request" and event.get("state") == "accepted" and event["action"] == "clone":
            self.copies.add(event["trial"])
        elif kind in ("trial", "report", "end") and event.get("trial") is not None:
            replay(self.records.setdefault(event["trial"], Record(event["trial"])), event)

    def num_trials(self) -> int | None:
        """How many trials the sweep has, changed copies among them."""
        if self.total is None:
            return None
        return self.total + sum(index > self.total for index in self.copies)

    def state_for(self, owner: str | None) -> str:
        """The sweep's state, where `owner` holds its lock: a start without an end runs if its own
        process is there, else it has died.
        """
        if self.state is not None:
            return self.state
        works = owner is not None and (
            self.by is None or owner == self.by or owner.startswith(f"{self.by},")
        )
        return "running" if works else "died"
