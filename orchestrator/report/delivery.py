"""The report at the end of a command: written into the sweep's folder and kept with its MLflow run.

A report that cannot be made or kept is said in one line; the sweep's result never depends on it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.report.page import NAME, write_report
from orchestrator.storage.journal import Journal
from orchestrator.tracking import shown_commands

ARTIFACT = "report"
"""Path of the report among the artifacts of the sweep's run."""


def deliver(folder: Path, store: Any, run_id: str | None, say: Callable[[str], None]) -> str | None:
    """Write a sweep's report and upload it; returns where it is. `run_id` is the sweep's run, None
    where there is none yet.
    """
    try:
        file = write_report(folder)
    except OSError as error:
        say(f"report  not written: {error.strerror or error}")
        return None
    if run_id is not None:
        try:
            with tempfile.TemporaryDirectory(prefix="report-") as draft:
                shutil.copyfile(file, Path(draft) / NAME)
                store.log_artifacts(run_id, Path(draft), ARTIFACT)
        except (OrchestratorError, OSError) as error:
            say(f"report  not in MLflow: {error}; {file} has it")
    return present(folder)


def deliver_unfinished(folder: Path) -> str | None:
    """Write the report of a sweep whose command ends before its end, once a trial has reported;
    returns where it is. Nothing of it may stand in the way of the end.
    """
    try:
        events = Journal(folder).events()
        if not any(event["kind"] == "report" and event.get("trial") for event in events):
            return None
        write_report(folder)
    except Exception:  # noqa: BLE001  # what has ended the command is what its user is to read
        return None
    return present(folder)


def present(folder: Path) -> str | None:
    """Where a person finds a sweep's report; None without one."""
    file = folder / NAME
    if not file.exists():
        return None
    if shown_commands.away():
        return f"{ARTIFACT}/{NAME} among the artifacts of the MLflow run {folder.name}"
    return str(file)
