"""The commands of `runs` that read or change a sweep's own folder: which words they take, and what
they answer, as a text and as a record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.report.alerts import alerts
from orchestrator.report.page import write_report
from orchestrator.report.sweep_data import read_sweep
from orchestrator.runs import cleaning, comparison, debug_archive, requests
from orchestrator.runs.local_storage import LocalRuns


@dataclass(frozen=True)
class Answer:
    """What a command prints: a text, or with --json a record."""

    text: str
    record: dict[str, Any]


def drop(place: LocalRuns, words: list[str]) -> Answer:
    """End one trial."""
    message = requests.drop(place, words[0], int(words[1]))
    return Answer(message, {"name": words[0], "trial": int(words[1]), "done": message})


def clone(place: LocalRuns, words: list[str]) -> Answer:
    """Start a changed copy."""
    message = requests.clone(place, words[0], int(words[1]), words[2:])
    return Answer(message, {"name": words[0], "trial": int(words[1]), "done": message})


def report(place: LocalRuns, words: list[str]) -> Answer:
    """Make the report anew."""
    folder = place.sweep(words[0])
    try:
        file = place.publish(words[0], write_report(folder))
    except OSError as error:
        raise OrchestratorError(f"{folder}: {error.strerror or error}") from error
    issued = alerts(read_sweep(folder))
    return Answer(str(file), {"name": words[0], "report": str(file), "alerts": issued})


def compare(place: LocalRuns, words: list[str]) -> Answer:
    """Two sweeps beside each other."""
    if words[0] == words[1]:
        raise InputError(f"compare takes two sweeps, got {words[0]} twice")
    result = comparison.compare(place.sweep(words[0]), place.sweep(words[1]))
    return Answer(comparison.text(result), result)


def debug(place: LocalRuns, words: list[str]) -> Answer:
    """An archive for whoever looks into a fault."""
    folder = place.sweep(words[0])
    target = Path(f"debug-{words[0]}.tar.gz").absolute()
    try:
        names = debug_archive.write_archive(folder, place.show(words[0]), target)
    except OSError as error:
        raise OrchestratorError(f"{target} cannot be written: {error.strerror or error}") from error
    text = f"{target} ({', '.join(names)}; secrets are removed, prompts and answers are not in it)"
    return Answer(text, {"name": words[0], "archive": str(target), "files": names})


def clean(place: LocalRuns, words: list[str]) -> Answer:
    """Remove what nobody goes on from."""
    text, record = cleaning.clean(place, words)
    return Answer(text, record)


IN_STORAGE: dict[str, Callable[[LocalRuns, list[str]], Answer]] = {
    "drop": drop,
    "clone": clone,
    "report": report,
    "compare": compare,
    "debug": debug,
    "clean": clean,
}
"""Commands that need to see the sweep's storage."""
USAGE = {
    "drop": "the name of a sweep and the number of a trial: drop NAME 3",
    "clone": "a sweep, a trial and what is to differ: clone NAME 3 optim.lr=0.001",
    "report": "the name of a sweep: see list",
    "compare": "the names of two sweeps: compare NAME NAME",
    "debug": "the name of a sweep: see list",
    "clean": "the name of a sweep, or none for all of a storage",
}


def problem(command: str, words: list[str]) -> str | None:
    """What is wrong with the words of a command; None where they can be read."""
    wanted = {"drop": 2, "compare": 2, "report": 1, "debug": 1}
    few = command == "clone" and len(words) < 3
    if few or (command in wanted and len(words) != wanted[command]):
        return f"{command} takes {USAGE[command]}"
    if command == "clean" and len(words) > 1:
        return f"{command} takes {USAGE[command]}"
    if command in ("drop", "clone") and not (words[1].isascii() and words[1].isdigit()):
        return f"{words[1]} is no number of a trial; {command} takes {USAGE[command]}"
    return None


def run(place: LocalRuns, command: str, words: list[str]) -> Answer:
    """Do one command. Raises OrchestratorError."""
    return IN_STORAGE[command](place, words)
