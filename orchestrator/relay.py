"""A command that runs elsewhere, heard here: its log lines onto stderr and its answer onto stdout, each once.

A remote command has one log for both. Where it is told of its submission by the environment it writes a mark before its answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any

SUBMISSION = "ORCHESTRATOR_SUBMISSION"
"""Environment variable that names the submission to the command on the cluster. It stays the same when the cluster starts the command
again, so that fresh=true forgets what was there before the submission, not what an earlier attempt has done."""
EXPECTED = "ORCHESTRATOR_EXPECTS"
"""Environment variable with the versions that the command on the cluster must have."""
TYPED = "ORCHESTRATOR_TYPED"
"""Environment variable with the settings as they were typed where the command was sent from."""
JOB = "ORCHESTRATOR_JOB"
"""Environment variable with the name of the RayJob that the command belongs to."""
WORKERS = "ORCHESTRATOR_WORKERS"
"""Environment variable with the number of workers that a RayJob has asked for, and after a dash, where they may become more, how many."""
RETRIED = "ORCHESTRATOR_RETRIED"
"""Environment variable that is set where a command that fails is started anew on another cluster, whatever its exit code."""
NOISE = re.compile(r"\sINFO job_(manager|supervisor)\.py:\d+ -- |^Running entrypoint for job ")
"""What Ray adds to the log of every job. Between time and level it writes a tab."""
MARK = "==== answer ===="
REFUSED = "==== refused ===="
"""Line of a command that has met bad input and stops its own job, so that it is not started anew."""
PLANNED = re.compile(r"^plan +(\S+) · |^sweep (\S+) is finished; this is its result")
"""The lines that name the sweep; see report.plan_text and earlier.show_again."""
ENDED = re.compile(r"^trial +(\d+)/(\d+) .*  (?:finished|stopped|failed)\b")
"""A trial's last line; see screen.Screen.end."""
COUNTED = re.compile(r"^trials +(\d+) finished, (\d+) stopped early, (\d+) failed of (\d+)$")
SCORED = re.compile(r"^test +(\S+ [\d.]+) \(")
"""All trials, and the winner's score; see result.text."""


def told(log: str) -> dict[str, str | None]:
    """How far a sweep is by its own log: `trials` as ended/all, and `best`, the winner's score once it was judged."""
    lines = log.splitlines()
    ended = {found[1]: found[2] for line in lines if (found := ENDED.match(line))}
    trials = f"{len(ended)}/{next(iter(ended.values()))}" if ended else None
    best = None
    for line in lines[lines.index(MARK) :] if MARK in lines else ():
        with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError):  # what job=predict answers may look alike
            return answered(json.loads(line))
        if found := COUNTED.match(line):
            trials = f"{sum(map(int, found.groups()[:3]))}/{found[4]}"
        if found := SCORED.match(line):
            best = found[1]
    return {"trials": trials, "best": best}


def answered(result: dict[str, Any]) -> dict[str, str | None]:
    """The same from the answer of output=json."""
    counts, score = result.get("trials"), (result.get("best") or {}).get("metrics", {}).get("test/exact_match")
    trials = f"{sum(counts[state] for state in ('finished', 'stopped', 'failed'))}/{counts['total']}" if counts else None
    return {"trials": trials, "best": None if score is None else f"test/exact_match {score:.3f}"}


def sweep_told(log: str) -> str | None:
    """The name of the sweep that a log is of, once it has been told."""
    found = next(filter(None, map(PLANNED.match, log.splitlines())), None)
    return found and (found[1] or found[2])


def refused(log: str) -> bool:
    """Whether a log is of a command that has met bad input and stopped its job."""
    return REFUSED in log.splitlines()


def mark_answer() -> None:
    """Called before the answer is printed."""
    if os.environ.get(SUBMISSION):
        sys.stderr.flush()
        print(MARK, flush=True)


class Relay:
    """Prints a log as it comes. A log that is told again from its beginning, after a lost connection, is not printed again."""

    def __init__(self) -> None:
        self.answering = self.refused = False
        """Whether what comes is the answer; whether the command has met bad input and stops its job."""
        self.printed = 0
        """Characters of the log that were taken."""
        self._seen = 0
        self._rest = ""

    def restart(self) -> None:
        """The log comes again from its beginning."""
        self._seen = 0

    def feed(self, text: str) -> None:
        """Take the next piece."""
        known = max(0, self.printed - self._seen)
        self._seen += len(text)
        new = text[known:]
        self.printed += len(new)
        *lines, self._rest = (self._rest + new).split("\n")
        for line in lines:
            self.line(line)

    def line(self, line: str) -> None:
        """Take one whole line."""
        if line.strip() == MARK:
            self.answering = True
        elif line.strip() == REFUSED:
            self.refused = True
        elif not NOISE.search(line):
            print(line, file=sys.stdout if self.answering else sys.stderr, flush=True)

    def close(self) -> None:
        """The log has ended."""
        if self._rest:
            self.line(self._rest)
            self._rest = ""
