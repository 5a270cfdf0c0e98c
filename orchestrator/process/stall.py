"""How long a task on Ray may tell of nothing before it is given up: so that no command waits, and
pays, for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

STALL_SECONDS = 2 * 3600.0
"""Without any progress: far longer than loading a base, or waiting for a busy cluster, takes."""
ROW_SECONDS = 30.0
"""And so much more for each row that is scored: a metric of the user's own, which may ask a server,
looks at all of them before anything is told.
"""


class StallWatch:
    """Whether a task goes on."""

    def __init__(self, num_rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`num_rows` are scored without a word between."""
        self.most_seconds = STALL_SECONDS + ROW_SECONDS * num_rows
        self.clock = clock
        self.changed = clock()
        self.progress: object = None

    def why_over(self, progress: object) -> str | None:
        """Why the task is given up, in words; None while it goes on. `progress` is anything that
        changes as the task does.
        """
        now = self.clock()
        if progress != self.progress:
            self.progress = progress
            self.changed = now
        if now - self.changed <= self.most_seconds:
            return None
        return (
            f"no progress for {self.most_seconds / 3600:.1f} hours; look whether a metric of your "
            "own, the storage or the cluster makes it wait"
        )
