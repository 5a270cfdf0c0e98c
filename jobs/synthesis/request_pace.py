"""How many requests are under way at once: one more for each round that a server takes, half as
many when it says that it has too much (additive increase, multiplicative decrease; Chiu and Jain,
1989), and none before the moment that it names.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

FIRST = 4
"""Requests at once at the beginning."""


@dataclass(frozen=True)
class Ticket:
    """A request that is under way."""

    began: float


class RequestPace:
    """The limit that all requests to one server keep to."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(FIRST, most))
        self.under_way = 0
        self.highest = 0
        self.lowered = 0
        self.lowered_at = 0.0
        self.resume_at = 0.0
        self.succeeded_at = time.monotonic()
        """When a request last succeeded, or the first one began after nobody had asked."""
        self.successes = 0
        self.stopped = False
        self.condition = threading.Condition()

    def enter(self) -> Ticket | None:
        """Wait until a request may start; None when all is to stop."""
        with self.condition:
            while not self.stopped:
                wait = self.resume_at - time.monotonic()
                if wait <= 0 and self.under_way < int(self.limit):
                    self.under_way += 1
                    self.highest = max(self.highest, self.under_way)
                    return Ticket(time.monotonic())
                self.condition.wait(max(wait, 0.01) if wait > 0 else None)
            return None

    def succeeded(self, ticket: Ticket) -> None:
        """A request was answered."""
        with self.condition:
            self.under_way -= 1
            self.successes += 1
            self.succeeded_at = time.monotonic()
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
            self.condition.notify_all()

    def failed(self, ticket: Ticket, overloaded: bool, pause: float = 0.0) -> None:
        """A request was not answered, `overloaded` where the server had too much; it wants none for
        `pause` seconds.
        """
        with self.condition:
            self.under_way -= 1
            now = time.monotonic()
            # Requests that started before the limit was last lowered tell the same once more.
            if overloaded and ticket.began >= self.lowered_at:
                self.limit = max(1.0, self.limit / 2)
                self.lowered += 1
                self.lowered_at = now
            if pause > 0:
                self.resume_at = max(self.resume_at, now + pause)
            self.condition.notify_all()

    def sleep(self, seconds: float) -> None:
        """Wait before a request is tried again, no longer than until all is to stop."""
        deadline = time.monotonic() + seconds
        with self.condition:
            while not self.stopped and (left := deadline - time.monotonic()) > 0:
                self.condition.wait(left)

    def begin(self) -> None:
        """Count the time without success from now: nobody has asked for anything before."""
        with self.condition:
            self.succeeded_at = time.monotonic()

    def without_success(self) -> float:
        """Seconds since anything succeeded."""
        with self.condition:
            return time.monotonic() - self.succeeded_at

    def stop(self) -> None:
        """Let nothing start any more."""
        with self.condition:
            self.stopped = True
            self.condition.notify_all()
