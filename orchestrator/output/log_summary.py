"""How far a sweep is, by its log."""

from __future__ import annotations

import contextlib
import json

from jobs.files.json_types import JsonObject
from orchestrator.job_environment import MARK
from orchestrator.output import remote_state
from orchestrator.output.best_lines import DEFAULT_TEST
from orchestrator.output.remote_state import STATE_MARK

REFUSED = "==== refused ===="
"""Line of a command that has met bad input and stops its own job, so that it is not started
anew.
"""


def told(log: str) -> dict[str, str | None]:
    """How far a sweep is by its own log: `trials` as ended/all, and `best`, the winner's score once
    it was judged.
    """
    lines = log.splitlines()
    answer = lines[lines.index(MARK) :] if MARK in lines else []
    for line in answer:
        with contextlib.suppress(
            ValueError, AttributeError, KeyError, TypeError
        ):  # what job=predict answers may look alike
            return answered(json.loads(line))
    state = remote_state.read(lines)
    return {"trials": state.trials, "best": state.best}


def answered(result: JsonObject) -> dict[str, str | None]:
    """The same from the answer of output=json."""
    counts, metric = result.get("trials"), result.get("metric") or DEFAULT_TEST
    score = (result.get("best") or {}).get("metrics", {}).get(metric)
    trials = (
        f"{sum(counts[state] for state in ('finished', 'stopped', 'failed'))}/{counts['total']}"
        if counts
        else None
    )
    return {"trials": trials, "best": None if score is None else f"{metric} {score:.3f}"}


def sweep_told(log: str) -> str | None:
    """The name of the sweep that a log is of, once it has been told."""
    return remote_state.read(log.splitlines()).sweep


def last_lines(log: str, count: int) -> list[str]:
    """The last lines of a log that are for people."""
    return [line for line in log.splitlines() if not line.startswith(STATE_MARK)][-count:]


def refused(log: str) -> bool:
    """Whether a log is of a command that has met bad input and stopped its job."""
    return REFUSED in log.splitlines()
