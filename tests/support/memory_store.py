"""A store in memory, in the place of MLflow, and a journal that is carried into it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.tracking import outbox
from orchestrator.tracking.events import Event, RunUpdate
from orchestrator.tracking.outbox import OutboxWorker

T = 1_700_000_000_000


class Memory:
    """A store in memory that can be told to fail."""

    def __init__(self, target: str = "memory") -> None:
        self.target = target
        self.runs: dict[str, tuple[str, dict[str, str]]] = {}
        self.updates: dict[str, list[RunUpdate]] = {}
        self.down = False
        self.read_only = False
        self.lose_answers = False
        self.gate = threading.Event()
        self.gate.set()
        self.poison: Callable[[RunUpdate], Exception | None] = lambda _: None

    def _arrive(self) -> None:
        self.gate.wait()
        if self.down:
            raise ConnectionError("down")

    def answers(self, written: str | None = None) -> bool:
        return not self.down and not (written and self.read_only)

    def has_run(self, run_id: str) -> bool:
        self._arrive()
        return run_id in self.runs

    def open_run(self, name: str, tags: dict[str, str], started: int) -> str:
        self._arrive()
        own = {key: value for key, value in tags.items() if key.startswith("orchestrator.")}
        for run_id, (_, known) in self.runs.items():
            if own.items() <= known.items():
                return run_id
        run_id = f"run{len(self.runs)}"
        if self.lose_answers:
            self.lose_answers = False
            # Carried out late: after the search of the next attempt.
            self.late = (run_id, (name, tags))
            raise ConnectionError("no answer")
        self.runs[f"{run_id}@{started}"] = (name, tags)
        return f"{run_id}@{started}"

    def write(self, run_id: str, update: RunUpdate) -> None:
        self._arrive()
        if self.read_only:
            raise ConnectionError("500")
        problem = self.poison(update)
        if problem is not None:
            raise problem
        self.updates.setdefault(run_id, []).append(update)

    def told(self, run_id: str, keys: set[str]) -> dict[str, dict[int, list[str]]]:
        self._arrive()
        found: dict[str, dict[int, list[str]]] = {}
        for key, value, _, step in [
            row
            for update in self.updates.get(run_id, [])
            for row in update.metrics
            if row[0] in keys
        ]:
            found.setdefault(key, {}).setdefault(step, []).append(repr(value))
        return found

    def drop_strays(self, tags: dict[str, str], keep: set[str]) -> None:
        for run_id in [
            key
            for key, (_, known) in self.runs.items()
            if tags.items() <= known.items() and key not in keep
        ]:
            del self.runs[run_id]

    def metrics(self, name: str) -> list[tuple[str, float, int, int]]:
        return [
            row
            for run_id, updates in self.updates.items()
            if self.runs[run_id][0] == name
            for update in updates
            for row in update.metrics
        ]


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture: the outbox waits for moments only."""
    monkeypatch.setattr(outbox, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_SECONDS", 0.01)


def append(folder: Path, *events: Event) -> None:
    with (folder / "journal.jsonl").open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)


def metric(trial: int | None, step: int, value: float = 1.0) -> Event:
    return {
        "t": T + step,
        "kind": "metrics",
        "trial": trial,
        "step": step,
        "metrics": {"valid/loss": value},
    }


SWEEP = {
    "t": T,
    "kind": "sweep",
    "name": "lora-7f3a91",
    "params": {"optim.lr": 0.1},
    "tags": {},
    "config": "a: 1",
    "datasets": [],
}
TRIAL = {
    "t": T,
    "kind": "trial",
    "trial": 3,
    "params": {"adapter.rank": 16},
    "datasets": [],
    "tags": {},
    "config": "b: 2",
}


def carry(folder: Path, store: Memory, timeout_seconds: float = 120.0) -> int:
    writer = OutboxWorker(lambda: store, folder)
    writer.start()
    return writer.close(timeout_seconds)
