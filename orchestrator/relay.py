"""A command that runs elsewhere, heard here: its log lines onto stderr and its answer onto stdout, each once.

A remote command has one log for both. Where it is told of its submission by the environment it writes a mark before its answer.
"""

from __future__ import annotations

import os
import re
import sys

SUBMISSION = "ORCHESTRATOR_SUBMISSION"
"""Environment variable that names the submission to the command on the cluster. It stays the same when the cluster starts the command
again, so that fresh=true forgets what was there before the submission, not what an earlier attempt has done."""
EXPECTED = "ORCHESTRATOR_EXPECTS"
"""Environment variable with the versions that the command on the cluster must have."""
TYPED = "ORCHESTRATOR_TYPED"
"""Environment variable with the settings as they were typed where the command was sent from."""
NOISE = re.compile(r" INFO job_manager\.py:\d+ -- |^Running entrypoint for job ")
"""What Ray adds to the log of every job."""
MARK = "==== answer ===="


def mark_answer() -> None:
    """Called before the answer is printed."""
    if os.environ.get(SUBMISSION):
        sys.stderr.flush()
        print(MARK, flush=True)


class Relay:
    """Prints a log as it comes. A log that is told again from its beginning, after a lost connection, is not printed again."""

    def __init__(self) -> None:
        self.answering = False
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
            return
        if not NOISE.search(line):
            print(line, file=sys.stdout if self.answering else sys.stderr, flush=True)

    def close(self) -> None:
        """The log has ended."""
        if self._rest:
            self.line(self._rest)
            self._rest = ""
