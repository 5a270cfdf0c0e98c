"""A command on its way to a cluster: what is typed here, what runs there, and by what it is found
again.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import datetime

from orchestrator.config.budget import moment_of

STAYS = ("cluster", "dry_run")
"""Settings that are about this side; the other side has its own."""

FIND_PYTHON = (
    "p=$PPID; python=; "
    'while [ -z "$python" ] && [ "${p:-0}" -gt 1 ] && [ -r /proc/$p/cmdline ]; do '
    "python=`tr '\\0' '\\n' < /proc/$p/cmdline | sed -n 's/^--python_worker_command=\\([^ ]*\\) "
    ".*/\\1/p'`; "
    "p=`sed -n 's/^PPid:[^0-9]*//p' /proc/$p/status`; done; "
    '[ -x "$python" ] || python=python'
)
"""Shell that finds the Python of Ray's workers on the command line of the raylet, which is an
ancestor of every job; else `python`.
"""

TRAVELS = ("cluster.wait_seconds", "cluster.prices")


@dataclass(frozen=True)
class Submission:
    """One command for a cluster."""

    sweep: str
    """Name of the sweep, or of the job where it cannot be known here."""
    arguments: list[str]
    """Of the command on the cluster."""
    typed: str
    """The settings as they were typed here."""

    @property
    def key(self) -> str:
        """The same for the same command: what runs is found by it instead of being started
        twice.
        """
        return digest(self.arguments)

    def command(self, arguments: list[str]) -> str:
        """The shell command that runs there, with the interpreter that Ray runs in: what `python`
        means there may have no Ray.
        """
        return module_command("orchestrator", arguments)


def module_command(module: str, arguments: list[str]) -> str:
    """Shell that runs a module of this program with the interpreter of Ray's workers."""
    return f'{FIND_PYTHON}; exec "$python" -m {module} {shlex.join(arguments)}'


def digest(arguments: list[str]) -> str:
    """Hash of what decides a command's work: the order of its settings does not, nor how its answer
    is printed and where it begins.
    """
    decisive = sorted(
        text
        for text in arguments
        if text.lstrip("+").partition("=")[0] not in ("fresh", "output", "retry")
    )
    return hashlib.sha256("\0".join(decisive).encode()).hexdigest()[:12]


DEADLINE = "budget.deadline"


def remote_arguments(overrides: list[str], dry_run: bool, deadline: str | None = None) -> list[str]:
    """What the command on the cluster is given: the same settings, with the cluster that it finds
    itself in. `deadline` is that of the settings, which may stand in a file.
    """
    names = [text.lstrip("+~").partition("=")[0] for text in overrides]
    travelling = [
        with_zone(text, name)
        for text, name in zip(overrides, names, strict=True)
        if name.startswith(TRAVELS) or name.split(".")[0] not in STAYS
    ]
    if deadline is not None and DEADLINE not in names:
        travelling.append(with_zone(f"{DEADLINE}={deadline}", DEADLINE))
    return [
        *travelling,
        "cluster=attached",
        "cluster.address=auto",
        *(["dry_run=true"] if dry_run else []),
    ]


def with_zone(text: str, name: str) -> str:
    """A setting as it means the same over there: a deadline without a zone is this machine's
    time.
    """
    setting, _, value = text.partition("=")
    value = value.strip("\"' ")
    if name != DEADLINE or moment_of(value) is None:
        return text
    moment = datetime.fromisoformat(value)
    return text if moment.tzinfo is not None else f"{setting}={moment.astimezone().isoformat()}"


def job_name(submission: Submission) -> str:
    """A name that no other submission has."""
    return f"{submission.sweep}-{time.strftime('%m%d%H%M%S')}-{os.urandom(2).hex()}"


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)
