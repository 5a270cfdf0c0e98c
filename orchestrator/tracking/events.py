"""What one run is told in one go, and how events of the journal add up to it.

Owns the meaning of every event kind, and the `TrackingSink` that an `RunUpdate` is handed to. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from jobs.files.json_types import JsonObject
from orchestrator.config.run_numbers import trial_number

KINDS = ("sweep", "trial", "metrics", "report", "tags", "end", "sweep_end")
STATUSES = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}

Event = JsonObject


class Refused(Exception):
    """The store understood and will never take this, however often it is sent."""


@dataclass
class RunUpdate:
    """What one run is told in one go."""

    params: JsonObject = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """(name, value, epoch milliseconds, step)"""
    datasets: list[JsonObject] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Text artifacts by name."""
    status: str | None = None
    ended: int | None = None
    """Epoch milliseconds."""


class TrackingSink(Protocol):
    """Where updates go. A call may raise `Refused`; anything else it raises means: later."""

    @property
    def target(self) -> str:
        """Address and experiment: run ids are worth nothing elsewhere."""
        ...

    def answers(self, written: str | None = None) -> bool:
        """Whether the store works and would take runs, and takes what is written to one that is
        there.
        """
        ...

    def has_run(self, run_id: str) -> bool: ...

    def open_run(self, name: str, tags: dict[str, str], started: int) -> str:
        """Id of the oldest run with these orchestrator.* tags, created where there is none."""
        ...

    def write(self, run_id: str, update: RunUpdate) -> None: ...

    def told(self, run_id: str, keys: set[str]) -> dict[str, dict[int, list[str]]]:
        """What a run holds of these metrics: step -> its values, as Python writes them."""
        ...

    def drop_strays(self, tags: dict[str, str], keep: set[str]) -> None:
        """Delete the runs with `tags` that are not in `keep`."""
        ...


def merge_events(events: list[Event]) -> RunUpdate:
    """One update that leaves a run as these events, in this order, would. Raises Refused for an
    event that makes no sense.
    """
    update = RunUpdate()
    for event in events:
        try:
            _add(update, event)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Refused(f"malformed {event.get('kind')} event: {error!r}") from error
    return update


def _add(update: RunUpdate, event: Event) -> None:
    kind = event["kind"]
    moment = int(event["t"])
    if kind in ("sweep", "trial"):
        update.status = "RUNNING"
        update.ended = None
        update.params |= event.get("params") or {}
        update.tags |= {"state": "running"}
        if event.get("trial") is not None:
            update.tags["trial"] = str(trial_number(int(event["trial"])))
        update.datasets += event.get("datasets") or []
        if event.get("config") is not None:
            update.files["config.yaml"] = str(event["config"])
    if kind in ("end", "sweep_end"):
        update.status = STATUSES[event["state"]]
        update.ended = moment
        update.tags["state"] = event["state"]
        if event.get("error"):
            update.tags["failure"] = _shorten(str(event["error"]))
            update.files["failure.txt"] = str(event["error"])
    update.tags |= {key: str(value) for key, value in (event.get("tags") or {}).items()}
    step = int(event.get("step") or 0)
    # What a report says of the step itself, the step's own event has said already: a second point
    # would stand beside it in every chart.
    metrics = {
        key: value
        for key, value in (event.get("metrics") or {}).items()
        if kind != "report" or not key.startswith("train/")
    }
    update.metrics += [(key, _number(value), moment, step) for key, value in metrics.items()]


def _number(value: float | None) -> float:
    # JSON has no NaN: writers that keep to the standard put null.
    return math.nan if value is None else float(value)


def _shorten(text: str, limit: int = 500) -> str:
    """Head and tail: an error's first line says where, a traceback's last line says what."""
    return text if len(text) <= limit else f"{text[: limit // 2]}\n...\n{text[-limit // 2 :]}"
