"""A finalist, and where it stands."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from orchestrator.config.search_space import Point
from orchestrator.storage.journal import Record


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, with the runs that decide how good its settings are."""

    trial: int
    runs: dict[int, Point]
    """The settings that differ from the sweep's, by the run's number."""

    @property
    def candidates(self) -> list[int]:
        """Runs of which one has the checkpoint that is judged."""
        return sorted({self.trial, *self.runs})


@dataclass(frozen=True)
class Standing:
    """A finalist with what its runs have scored."""

    finalist: Finalist
    scores: dict[int, float]
    """The best score on the validation split, by the run's number; those that failed have none."""
    best: Record
    """The run whose best checkpoint stands for the finalist."""

    @property
    def mean(self) -> float:
        """What finalists are compared by."""
        return statistics.fmean(self.scores.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds; None for one run."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None
