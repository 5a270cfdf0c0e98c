"""The places where sweeps are found again, for runs.py: a storage folder, a running Ray cluster, a
namespace of Kubernetes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jobs.evaluation import registry
from jobs.files import filesystem
from jobs.files.spare_checkpoints import folder_bytes
from jobs.files.storage_faults import size
from orchestrator.config.run_numbers import is_finalist, label
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output import run_commands
from orchestrator.output.best_lines import DEFAULT_TEST
from orchestrator.output.log_summary import refused, sweep_told, told
from orchestrator.report.alerts import alerts
from orchestrator.report.page import NAME as REPORT
from orchestrator.report.sweep_data import read_sweep
from orchestrator.runs.backend import hint
from orchestrator.storage.journal import Record
from orchestrator.storage.journal_reader import History
from orchestrator.storage.json_files import read_sealed
from orchestrator.storage.locks import held_by
from orchestrator.storage.paths import storage_folder

STOP_SECONDS = 120.0
POLL_SECONDS = 0.5
NUM_LOG_LINES = 20
NUM_LOGS = 20
"""So many of the newest jobs are listed with what their logs tell; of older ones a log is read by
`show`.
"""


class LocalRuns:
    """Sweeps of a storage folder, started on this machine or seen from it."""

    def __init__(self, storage: str) -> None:
        if filesystem.is_uri(storage):
            raise InputError(f"--storage {storage}: this is an object store, not a folder")
        self.storage = storage
        self.folder = storage_folder(storage)
        self.histories: dict[Path, History] = {}
        self.live_jobs: set[str] = set()
        """Sweeps that a cluster says it works on: its lock may not be seen from here."""
        if not self.folder.is_dir():
            raise InputError(
                f"storage {storage}: no such folder; name the one that the sweeps were given: "
                "--storage FOLDER"
            )

    def listed(self) -> list[dict[str, Any]]:
        """See runs.Place."""
        records = [self.record(file.parent) for file in self.folder.glob("sweeps/*/journal.jsonl")]
        return sorted(records, key=lambda record: -(record["started"] or 0))

    def owner(self, name: str) -> str | None:
        """Who works on a sweep, or on all of this storage."""
        return held_by(self.folder) or held_by(self.folder, name)

    def sweep(self, name: str) -> Path:
        """The folder of a sweep."""
        names = sorted(file.parent.name for file in self.folder.glob("sweeps/*/journal.jsonl"))
        if name not in names:
            raise InputError(
                f"storage {self.storage}: no sweep {name}; what it has: "
                f"{', '.join(names) or 'none'}"
            )
        return self.folder / "sweeps" / name

    def where(self, name: str) -> str:
        """Where a sweep's driver looks for requests."""
        return str(self.folder / "sweeps" / name)

    def publish(self, name: str, file: Path) -> Path:
        """Where a report that was made of a sweep stays."""
        return file

    def history(self, folder: Path) -> History:
        """What the journal of a sweep told when it was read last."""
        return self.histories.setdefault(folder, History(folder))

    def record(self, folder: Path) -> dict[str, Any]:
        """What the journal tells in one line."""
        # Asked before the journal is read: a sweep that ends in between has then written its end.
        owner = self.owner(folder.name)
        history = self.history(folder)
        history.update()
        return self.told(history, owner)

    def told(self, history: History, owner: str | None) -> dict[str, Any]:
        """A history in the terms of runs.COLUMNS."""
        folder = history.folder
        done = sum(
            record.state in ("finished", "stopped", "failed") and not is_finalist(record.index)
            for record in history.records.values()
        )
        best = None
        with contextlib.suppress(ValueError, AttributeError, TypeError, OverflowError):
            # no result, or one that a disk has changed
            result = read_sealed(folder / "result.json")
            metric = result.get("metric") or DEFAULT_TEST
            score = ((result.get("best") or {}).get("metrics") or {}).get(metric)
            best = None if score is None else f"{metric} {float(score):.3f}"
        state = history.state_for(owner)
        if state == "died" and folder.name in self.live_jobs:
            state = "running"
        return {
            "name": folder.name,
            "state": state,
            "trials": None if history.total is None else f"{done}/{history.num_trials()}",
            "best": best,
            "started": history.started,
            "ended": history.ended,
            "where": str(folder),
            "error": history.error,
            "spent": None if history.spent is None else history.spent.words(("minutes", "money")),
        }

    def show(self, name: str) -> dict[str, Any]:
        """See runs.Place."""
        folder = self.sweep(name)
        record = self.record(folder)
        report = folder / REPORT
        advice = hint(record["state"])
        spent = self.history(folder).spent
        return record | {
            **({"hint": advice} if advice else {}),
            "spent": None if spent is None else spent.words(),
            "size": sizes_of(folder),
            "report": str(report) if report.exists() else None,
            "trial": [
                trial_line(trial) for _, trial in sorted(self.history(folder).records.items())
            ],
            "alerts": alerts(read_sweep(folder)),
        }

    def watch(self, name: str) -> int:
        """See runs.Place."""
        history = self.history(self.sweep(name))
        while True:
            owner = self.owner(name)
            for event in history.update():
                if line := event_line(event):
                    print(line, file=sys.stderr, flush=True)
            now = self.told(history, owner)
            if now["state"] != "running":
                reasons = [text for text in (now["error"], hint(now["state"])) if text]
                print(f"{name} {now['state']}{': ' if reasons else ''}{'; '.join(reasons)}")
                return {"finished": 0, "interrupted": 130}.get(now["state"], 1)
            time.sleep(POLL_SECONDS)

    def stop(self, name: str) -> str:
        """See runs.Place."""
        if self.record(self.sweep(name))["state"] != "running":
            return f"{name} does not run"
        owner = self.owner(name)
        if owner is None:
            return f"{name} does not run"
        match = re.match(r"process (\d+)(?: on (\S+?))?,", owner)
        if match is None or (match[2] and match[2] != os.uname().nodename):
            raise InputError(f"{name} is run by {owner}: stop it there, with kill -INT")
        try:
            os.kill(int(match[1]), signal.SIGINT)
        except ProcessLookupError:
            pass  # it has just ended, and its lock with it
        except PermissionError as error:
            raise InputError(
                f"{name} is run by {owner}, of another user: ask them to stop it, with kill -INT"
            ) from error
        deadline = time.monotonic() + STOP_SECONDS
        while self.owner(name) == owner:
            if time.monotonic() > deadline:
                raise OrchestratorError(
                    f"{name} was asked to stop and has not ended within {STOP_SECONDS:g} s "
                    f"({owner})"
                )
            time.sleep(POLL_SECONDS)
        return f"{name} is stopped; what is done is kept, and the same command continues"

    def delete(self, name: str) -> str:
        """See runs.Place."""
        folder = self.sweep(name)
        if self.record(folder)["state"] == "running":
            raise InputError(
                f"{name} runs; stop it first: {run_commands.in_storage('stop', name, self.storage)}"
            )
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise OrchestratorError(
                f"{folder} cannot be deleted: {error.strerror or error}; remove it by hand"
            ) from error
        return f"{name} is deleted from {self.storage}; what MLflow holds of it stays"


def sizes_of(folder: Path) -> str:
    """What a sweep's files take, and its checkpoints of that."""
    checkpoints = folder_bytes(folder / "train")
    return f"{size(folder_bytes(folder))}, of it {size(checkpoints)} of checkpoints"


def trial_line(record: Record) -> str:
    """A trial in one line."""
    step = max(record.reports, default=0)
    last = "  ".join(
        f"{key} {value:.4g}"
        for key, value in record.reports.get(step, {}).items()
        if key.startswith(f"{registry.VALID}/")
    )
    name = label(record.index) if is_finalist(record.index) else str(record.index)
    point = " ".join(
        f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in record.point.items()
    )
    return (
        f"{name:>3}  {record.state:<11} step {step:<5} {last}  {point}  {record.error or ''}"
    ).rstrip()


def event_line(event: dict[str, Any]) -> str | None:
    """An event of the journal for someone who watches."""
    run = None if event.get("trial") is None else label(event["trial"])
    if event["kind"] == "report":
        scores = "  ".join(
            f"{key} {value:.4g}"
            for key, value in event["metrics"].items()
            if key.startswith((f"{registry.VALID}/", f"{registry.TEST}/"))
        )
        return f"{run}  step {event['step']}  {scores}"
    if event["kind"] == "end":
        return f"{run}  {event['state']}" + (f": {event['error']}" if event.get("error") else "")
    if event["kind"] == "request":
        return str(event.get("text") or "")
    return f"{run}  starts" if event["kind"] == "trial" else None


def of_log(state: str, sweep: str, log: str) -> dict[str, Any]:
    """What the driver's log tells of a RayJob beyond its status: the sweep's own name, how far it
    is, and whether it was bad input that had it stop itself.
    """
    state = "refused" if state == "stopped" and refused(log) else state
    return {"state": state, "sweep": sweep_told(log) or sweep, **told(log)}
