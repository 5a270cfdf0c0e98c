"""Which optimizer steps the journal has of each trial already: a step that is computed again, after
a fault, is not told twice. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobs.files.json_types import JsonObject


class Steps:
    """A set of steps that is small where they follow each other."""

    def __init__(self) -> None:
        self.upto = 0
        """All steps from 1 to this one are in it."""
        self.beyond: set[int] = set()

    def add(self, step: int) -> bool:
        """Take a step in; False when it was in already."""
        if step in self:
            return False
        self.beyond.add(step)
        while self.upto + 1 in self.beyond:
            self.upto += 1
            self.beyond.discard(self.upto)
        return True

    def __contains__(self, step: int) -> bool:
        return 0 < step <= self.upto or step in self.beyond

    def last(self) -> int:
        """The highest one; 0 when there is none."""
        return max(self.beyond, default=self.upto)


class Logged:
    """The steps of all trials."""

    def __init__(self, events: Iterable[JsonObject] = ()) -> None:
        self.trials: dict[int, Steps] = {}
        for event in events:
            if (
                event["kind"] == "metrics"
                and event.get("trial") is not None
                and isinstance(event.get("step"), int)
            ):
                self.add(event["trial"], event["step"])

    def add(self, trial: int, step: int) -> bool:
        """Take a trial's step in; False when it was in already."""
        return self.trials.setdefault(trial, Steps()).add(step)

    def last(self, trial: int) -> int:
        """How far a trial was."""
        return self.trials[trial].last() if trial in self.trials else 0
