"""Changing a sweep that runs, from another process: a trial is dropped, or a changed copy of one is
started. What is asked lies in the sweep's folder until its driver has answered in the journal.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import validation
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError, InputError, OrchestratorError
from orchestrator.output import run_commands
from orchestrator.plan import copies
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.storage import requests
from orchestrator.storage.journal import Journal
from orchestrator.storage.json_files import read_text

ANSWER_SECONDS = 60.0
"""So long an answer of a sweep that runs is waited for: its Ray may still be starting."""
LOOK_SECONDS = 0.3
LATER = "the sweep does it when its command runs"


def drop(place: LocalRuns, name: str, trial: int) -> str:
    """End one trial of a sweep; returns what happened."""
    folder = changeable(place, name)
    points = points_of(folder)
    total = place.history(folder).num_trials() or 0
    if not 1 <= trial <= max([total, *points]):
        show = run_commands.in_storage("show", name, place.storage)
        raise InputError(f"{name} has no trial {trial}; it has {total}: see {show}")
    if any(request["trial"] == trial for request in waiting(place, name, "drop")):
        raise InputError(f"dropping trial {trial} is asked for already; {LATER}")
    return answered(place, name, asked(place, name, "drop", trial, {}))


def clone(place: LocalRuns, name: str, trial: int, typed: list[str]) -> str:
    """Start a changed copy of a trial in a sweep; returns what happened."""
    folder = changeable(place, name)
    config = config_of(folder)
    settings = copies.read_settings(config, typed)
    points = points_of(folder)
    point = copies.copy_point(config, points, trial, settings, packed=False)
    for request in waiting(place, name, "clone"):
        with contextlib.suppress(InputError):  # the driver refuses that one, and says why
            waiting_copy = request["trial"], request["settings"]
            if copies.copy_point(config, points, *waiting_copy, packed=False) == point:
                raise Waiting(f"a copy with exactly these settings is asked for already; {LATER}")
    return answered(place, name, asked(place, name, "clone", trial, settings))


class Waiting(OrchestratorError):
    """The same was asked before, and waits for its answer."""

    exit_code = 2


def waiting(place: LocalRuns, name: str, action: str) -> list[requests.Request]:
    """What was asked of a sweep and has no answer yet."""
    try:
        return [r for r in requests.waiting(place.where(name)) if r["action"] == action]
    except OSError:  # whoever cannot read there cannot ask either, which is told then
        return []


def asked(
    place: LocalRuns, name: str, action: str, trial: int, settings: dict[str, Any]
) -> requests.Request:
    """A request that lies where the sweep looks. Raises InputError where it cannot be written."""
    try:
        return requests.ask(place.where(name), action, trial, settings)
    except OSError as error:
        raise InputError(
            f"{place.where(name)} cannot be written: {error.strerror or error}; ask its owner"
        ) from error


def changeable(place: LocalRuns, name: str) -> Path:
    """The folder of a sweep that trains, or that its command can continue. Raises InputError for
    one that has finished.
    """
    folder = place.sweep(name)
    record = place.record(folder)
    if record["state"] == "finished":
        raise InputError(
            f"{name} has finished, so nothing of it can be changed; a sweep with other settings is "
            "another command"
        )
    return folder


def points_of(folder: Path) -> dict[int, dict[str, Any]]:
    """The points of all trials that have started, and of copies that will."""
    journal = Journal(folder)
    points = {index: record.point for index, record in journal.records().items()}
    for event in journal.events():
        if event["kind"] == "request" and event.get("state") == "accepted" and event.get("point"):
            points[event["trial"]] = event["point"]
    return points


def config_of(folder: Path) -> Config:
    """The configuration of a sweep, as it was composed. Raises InputError where it cannot be
    read.
    """
    text = read_text(folder / "config.yaml")
    if not text.strip():
        raise InputError(f"{folder / 'config.yaml'} is not there: without it nothing can be copied")
    try:
        raw = yaml.safe_load(text)
        return validation.build(raw)
    except (yaml.YAMLError, ConfigError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.yaml'} cannot be read: {error}") from error


def answered(place: LocalRuns, name: str, request: requests.Request) -> str:
    """The driver's answer to a request; what becomes of it where nobody answers now. Raises
    InputError for one that is refused.
    """
    folder = place.sweep(name)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        state = place.record(folder)["state"]
        for event in Journal(folder).events():
            if event["kind"] == "request" and event["id"] == request["id"]:
                if event.get("state") != "accepted":
                    raise InputError(str(event.get("text") or "refused"))
                return str(event["text"])
        if state != "running":
            return f"{name} does not run now; the command that continues it does this first"
        time.sleep(LOOK_SECONDS)
    return f"{name} has not answered within {ANSWER_SECONDS:g} s; it does this when it looks next"
