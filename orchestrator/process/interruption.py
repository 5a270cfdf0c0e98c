"""A wish to stop: Ctrl-C, SIGTERM (`timeout`, systemd, slurm, `kill`), or a terminal that is gone
(SIGHUP). All mean the same.

A sweep that trains is stopped gently, so that its trials end at a checkpoint; anything else by
KeyboardInterrupt, at once. `timeout` and others signal the process and then its group: what comes
within a second is one wish.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAME_WISH_SECONDS = 1.0
"""What comes this soon after a signal is the same wish. The note about a second Ctrl-C says so."""
AGAIN_SECONDS = 0.05
"""After this a KeyboardInterrupt that was lost is raised again."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Wish:
    """Whether this process was asked to stop, when, and who stops it gently."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self.was_first = False
        """Whether the newest wish was the first."""
        self.gently: Callable[[], None] | None = None
        self.told_before: Callable[[Any], Any] = sys.__unraisablehook__
        """Who is told of other errors that nobody can take."""

    @property
    def asked(self) -> bool:
        """Whether someone wants this process to stop."""
        return self.asked_at is not None

    def lost(self) -> bool:
        """Whether a KeyboardInterrupt of ours was raised where nobody could take it, such as in
        what runs when an object goes; then it is raised again, a little later.
        """
        if self.asked_at is None:
            return False
        self.asked_at = None if self.was_first else time.monotonic() - SAME_WISH_SECONDS
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
        return True

    def handle(self, signal_number: int, frame: Any) -> None:
        """Take a signal: gently the first time, where that is possible, else at once."""
        now = time.monotonic()
        if self.asked_at is not None and now - self.asked_at < SAME_WISH_SECONDS:
            return
        first = self.was_first = self.asked_at is None
        self.asked_at = now
        if first and self.gently is not None:
            self.gently()
            return
        raise KeyboardInterrupt


wish = Wish()
"""This process's."""


def arm() -> dict[Any, Any]:
    """Let all that means a wish to stop be one; returns what handled it before. A hang-up that is
    ignored, as by nohup, stays so.
    """
    if sys.unraisablehook is not tell_unraisable:
        wish.told_before = sys.unraisablehook
        sys.unraisablehook = tell_unraisable
    before = {}
    for signal_number in SIGNALS:
        if signal_number != signal.SIGINT and signal.getsignal(signal_number) == signal.SIG_IGN:
            continue
        before[signal_number] = signal.signal(signal_number, wish.handle)
    return before


def tell_unraisable(found: Any) -> None:
    """Told by Python of an error that nobody can take."""
    if found.exc_type is not KeyboardInterrupt or not wish.lost():
        wish.told_before(found)


@contextmanager
def armed() -> Iterator[None]:
    """Take signals within, whoever has taken them before: Ray, once it runs, answers SIGTERM by
    ending its own daemons under the feet of those who work.
    """
    before = arm() if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


@contextmanager
def gently(stop: Callable[[], None]) -> Iterator[None]:
    """Have the first wish that comes meanwhile call `stop`, which comes back; a later one stops at
    once. Signals reach the main thread alone: in another one this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = arm()
    try:
        if wish.asked:
            stop()  # it was not heard where it came
        wish.gently = stop
        yield
    finally:
        wish.gently = None
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


def is_stop(error: BaseException) -> bool:
    """Whether somebody has ended the command: by Ctrl-C, or by a signal that Ray, while it starts,
    turns into an exit of its own.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit)
