"""A line whenever a command has been silent for some seconds, so that nobody has to ask whether it
still works.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

SILENT_SECONDS = 5.0


class Silence:
    """Since when nothing was printed."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def broken(self) -> None:
        """Something was printed."""
        self.since = time.monotonic()

    def seconds(self) -> float:
        """How long it lasts."""
        return time.monotonic() - self.since


SILENCE = Silence()
"""This process's."""


def print_line(text: str) -> None:
    """One line on stderr."""
    SILENCE.broken()
    print(text, file=sys.stderr, flush=True)


class Heartbeat:
    """Tells every few seconds of silence, in a thread, what goes on."""

    def __init__(
        self,
        status: Callable[[], str | None],
        silent_seconds: float = SILENT_SECONDS,
        write: Callable[[str], None] = print_line,
    ) -> None:
        """`status` is asked for the line; None where there is nothing to say."""
        self.status = status
        self.silent_seconds = silent_seconds
        self.write = write
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        SILENCE.broken()
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join(self.silent_seconds)

    def run(self) -> None:
        """Wait for the end, and speak meanwhile."""
        wait = self.silent_seconds
        while not self.over.wait(max(wait, 0.01)):
            wait = self.silent_seconds - SILENCE.seconds()
            if wait > 0:
                continue
            wait = self.silent_seconds
            text = self.status()
            if text is not None and not self.over.is_set():
                self.write(text)
            SILENCE.broken()


def waiting(what: str) -> Callable[[], str]:
    """The status of something that tells nothing of how far it is: what it is, and for how long."""
    began = time.monotonic()
    return lambda: f"{what}, {time.monotonic() - began:.0f} s"
