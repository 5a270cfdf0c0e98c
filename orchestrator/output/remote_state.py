"""How far a sweep is, for whoever reads its log from afar: one JSON line after a mark.

A command that was sent to a cluster writes such a line into its log when its sweep has a name, when
a trial has ended, and before the answer. A field that is null says nothing new; of those that are
set the last line counts. The relay that shows a remote log leaves these lines out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from orchestrator.job_environment import SUBMISSION

STATE_MARK = "==== state ==== "


@dataclass(frozen=True)
class RemoteState:
    """What a log tells of its sweep so far."""

    sweep: str | None = None
    """Name of the sweep."""
    ended: int | None = None
    """Trials that have ended."""
    total: int | None = None
    """Trials that the sweep has."""
    best: str | None = None
    """The winner's metric and score, once it was judged."""

    @property
    def trials(self) -> str | None:
        """ended/all; None before the first has ended."""
        return None if self.ended is None else f"{self.ended}/{self.total}"


def tell(state: RemoteState) -> None:
    """Write the line, where the command was sent from another machine."""
    if os.environ.get(SUBMISSION):
        print(as_line(state), file=sys.stderr, flush=True)


def as_line(state: RemoteState) -> str:
    """The line of a log."""
    return STATE_MARK + json.dumps(asdict(state))


def read(lines: Iterable[str]) -> RemoteState:
    """What the lines of a log tell in all."""
    state = RemoteState()
    for line in lines:
        if line.startswith(STATE_MARK):
            with contextlib.suppress(ValueError, TypeError):  # a line that was cut off
                update = RemoteState(**json.loads(line.removeprefix(STATE_MARK)))
                news = {name: value for name, value in asdict(update).items() if value is not None}
                state = replace(state, **news)
    return state
