"""What has happened in a sweep, on disk: one folder per sweep, one line per event.

The journal is the truth that everything else is derived from: the tracking store, the resumption of
a sweep, and its result.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.evaluation import registry
from jobs.files.json_types import Json, JsonObject
from jobs.files.manifest import flush_folder
from orchestrator.config import credentials
from orchestrator.config.search_space import Point
from orchestrator.storage.journal_lines import event_of, line_of


@dataclass
class Record:
    """What is known of one trial."""

    index: int
    point: Point = field(default_factory=dict)
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step -> metrics at that rung."""
    state: str = "running"
    """running, finished, stopped, failed or interrupted."""
    error: str | None = None
    inside: str | None = None
    """Why it was stopped inside a rung, if it was."""
    checkpoints: dict[int, str] = field(default_factory=dict)
    """Step -> folder of the checkpoint taken at that rung. An old one may be gone from disk."""

    def best(self, metric: str, maximise: bool) -> tuple[int, float] | None:
        """Step and value of the best report of a metric; the later one of two equals, whose
        checkpoint Ray Train keeps. Where answers were generated on more rows at one rung than at
        others, the report of most rows counts.
        """
        values = [
            (step, report[metric])
            for step, report in sorted(self.reports.items(), reverse=True)
            if metric in report and report[metric] == report[metric]
        ]
        if registry.needs_text(metric):
            most = max(
                (self.reports[step].get(registry.NUM_ANSWERED, 0) for step, _ in values), default=0
            )
            values = [
                (step, value)
                for step, value in values
                if self.reports[step].get(registry.NUM_ANSWERED, 0) == most
            ]
        return max(values, key=lambda item: item[1] if maximise else -item[1], default=None)


NEEDED: dict[str, dict[str, type]] = {
    "sweep": {"params": dict},
    "trial": {"point": dict},
    "report": {"step": int, "metrics": dict},
    "checkpoint": {"step": int, "checkpoint": str},
    "end": {"state": str},
    "sweep_end": {"state": str},
    "request": {"id": str, "action": str},
}
"""What an event of a kind cannot do without."""
FREQUENT = "metrics"
"""The kind that comes with every step, and follows from the checkpoints when it is lost. All others
the disk has to hold before the work goes on.
"""
CLEANING_SECONDS = 20.0
"""How long a start waits for what a killed command has left to be cleaned away."""


class Journal:
    """The journal of one sweep. Appending is safe from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "journal.jsonl"
        self._lock = threading.Lock()
        self.num_damaged = 0
        """Lines that the last reading has left out."""

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event; `t`, milliseconds since the epoch, may be given for something that
        happened earlier.
        """
        if isinstance(fields.get("error"), str):
            fields["error"] = credentials.mask(
                fields["error"]
            )  # another program's words, which may repeat an address
        event = {"t": fields.pop("t", int(time.time() * 1000)), "kind": kind, **fields}
        with self._lock, self.file.open("a+b") as stream:
            begins = stream.tell() == 0
            if not begins and not self._ends_line(stream):
                stream.write(b"\n")
            stream.write(line_of(event) + b"\n")
            if kind == FREQUENT:
                return
            stream.flush()
            os.fsync(stream.fileno())
            if begins:
                flush_folder(self.folder)
                flush_folder(self.folder.parent)

    @staticmethod
    def _ends_line(stream: Any) -> bool:
        """Whether the last line is whole; a crash may have torn it."""
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"

    def events(self) -> Iterator[JsonObject]:
        """All events, oldest first; torn and damaged lines, and other objects, are left out."""
        self.num_damaged = 0
        if not self.file.exists():
            return
        for line in self.file.read_bytes().splitlines():
            event = event_of(line)
            if event is not None and is_event(event):
                yield event
            elif line.strip():
                self.num_damaged += 1

    def records(self) -> dict[int, Record]:
        """The trials by index."""
        record_by_trial: dict[int, Record] = {}
        for event in self.events():
            if (
                event["kind"] in ("trial", "report", "checkpoint", "end")
                and event.get("trial") is not None
            ):
                replay(record_by_trial.setdefault(event["trial"], Record(event["trial"])), event)
        return record_by_trial


def is_event(value: Json) -> bool:
    """Whether a line of a journal is an event as this program writes them; someone may have edited
    it.
    """
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("t"), int)
        or not isinstance(value.get("trial"), int | None)
    ):
        return False
    needed = NEEDED.get(str(value.get("kind")), {"kind": str})
    metric_values = value["metrics"].values() if isinstance(value.get("metrics"), dict) else ()
    return all(isinstance(value.get(name), kind) for name, kind in needed.items()) and all(
        isinstance(n, int | float) for n in metric_values
    )


def replay(record: Record, event: JsonObject) -> None:
    """Bring a record up to date with one event."""
    if event["kind"] == "trial":
        record.point = event["point"]
        record.state = "running"
        record.error = None
    elif event["kind"] == "report":
        # The winner's test scores are reported later, at the step of its best checkpoint.
        record.reports.setdefault(event["step"], {}).update(event["metrics"])
        if event.get("checkpoint"):
            record.checkpoints[event["step"]] = event["checkpoint"]
    elif event["kind"] == "checkpoint":
        record.checkpoints[event["step"]] = event["checkpoint"]
    else:
        record.state = event["state"]
        record.error = event.get("error")
        record.inside = event.get("inside")
