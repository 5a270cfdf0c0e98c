"""A command that runs elsewhere, heard here: its log lines onto stderr and its answer onto stdout,
each once.

A remote command has one log for both. Where it is told of its submission by the environment it
writes a mark before its answer.
"""

from __future__ import annotations

import re
import sys

from orchestrator.job_environment import MARK
from orchestrator.output.log_summary import REFUSED
from orchestrator.output.remote_state import STATE_MARK

NOISE = re.compile(r"\sINFO job_(manager|supervisor)\.py:\d+ -- |^Running entrypoint for job ")
"""What Ray adds to the log of every job. Between time and level it writes a tab."""


class Relay:
    """Prints a log as it comes. A log that is told again from its beginning, after a lost
    connection, is not printed again.
    """

    def __init__(self) -> None:
        self.answering = self.refused = False
        """Whether what comes is the answer; whether the command has met bad input and stops its
        job.
        """
        self.printed = 0
        """Characters of the log that were taken."""
        self._seen = 0
        self._rest = ""

    def restart(self) -> None:
        """The log comes again from its beginning."""
        self._seen = 0

    def feed(self, text: str) -> None:
        """Take the next piece."""
        num_repeated = max(0, self.printed - self._seen)
        self._seen += len(text)
        new = text[num_repeated:]
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
        elif not line.startswith(STATE_MARK) and not NOISE.search(line):
            print(line, file=sys.stdout if self.answering else sys.stderr, flush=True)

    def close(self) -> None:
        """The log has ended."""
        if self._rest:
            self.line(self._rest)
            self._rest = ""
