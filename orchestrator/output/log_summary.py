"""How far a sweep is, by its log."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from orchestrator.job_environment import MARK
from orchestrator.output.result import DEFAULT_TEST

REFUSED = "==== refused ===="
"""Line of a command that has met bad input and stops its own job, so that it is not started
anew.
"""
PLANNED = re.compile(r"^plan +(\S+) · |^sweep (\S+) is finished; this is its result")
"""The lines that name the sweep; see report.plan_text and earlier.show_again."""
ENDED = re.compile(r"^trial +(\d+)/(\d+) .*  (?:finished|stopped|failed)\b")
"""A trial's last line; see screen.Screen.end."""
COUNTED = re.compile(r"^trials +(\d+) finished, (\d+) stopped early, (\d+) failed of (\d+)$")
SCORED = re.compile(r"^test +(\S+ [\d.]+) \(")
"""All trials, and the winner's score; see result.text."""


def told(log: str) -> dict[str, str | None]:
    """How far a sweep is by its own log: `trials` as ended/all, and `best`, the winner's score once
    it was judged.
    """
    lines = log.splitlines()
    ended = {found[1]: found[2] for line in lines if (found := ENDED.match(line))}
    trials = f"{len(ended)}/{next(iter(ended.values()))}" if ended else None
    best = None
    for line in lines[lines.index(MARK) :] if MARK in lines else ():
        with contextlib.suppress(
            ValueError, AttributeError, KeyError, TypeError
        ):  # what job=predict answers may look alike
            return answered(json.loads(line))
        if found := COUNTED.match(line):
            trials = f"{sum(map(int, found.groups()[:3]))}/{found[4]}"
        if found := SCORED.match(line):
            best = found[1]
    return {"trials": trials, "best": best}


def answered(result: dict[str, Any]) -> dict[str, str | None]:
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
    found = next(filter(None, map(PLANNED.match, log.splitlines())), None)
    return found and (found[1] or found[2])


def refused(log: str) -> bool:
    """Whether a log is of a command that has met bad input and stopped its job."""
    return REFUSED in log.splitlines()
