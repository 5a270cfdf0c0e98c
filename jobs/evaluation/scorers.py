"""What all metrics of answers have in common: a score of any selection of the rows.

So one computation serves a whole split, a slice of it, a single row, and the resamples of a
bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

Rows = np.ndarray
"""Numbers of rows; one may stand there several times."""


class Scorer(Protocol):
    """A metric over rows that it has read."""

    @property
    def num_rows(self) -> int:
        """How many rows it has read."""
        ...

    def value(self, rows: Rows) -> float:
        """The score of some of them; not a number for none."""
        ...


class SumScorer:
    """A metric that is a function of sums over the rows, such as a mean."""

    def __init__(
        self, vectors: Sequence[Sequence[float]], total: Callable[[np.ndarray, int], float]
    ) -> None:
        self.vectors = np.asarray(vectors, dtype=np.float64).reshape(len(vectors), -1)
        self.total = total

    @property
    def num_rows(self) -> int:
        """See Scorer."""
        return len(self.vectors)

    def value(self, rows: Rows) -> float:
        """See Scorer."""
        if len(rows) == 0:
            return float("nan")
        return float(self.total(self.vectors[rows].sum(0), len(rows)))


class MeanScorer(SumScorer):
    """The mean of one score per row."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__([[score] for score in scores], lambda sums, count: sums[0] / count)

    @property
    def scores(self) -> list[float]:
        """Of each row."""
        return self.vectors[:, 0].tolist()


def ratio_scorer(pairs: Sequence[Sequence[float]], scale: float = 1.0) -> SumScorer:
    """The sum of one number per row over the sum of another."""

    def ratio(sums: np.ndarray, count: int) -> float:
        if sums[1] == 0:
            return float("nan")
        return sums[0] / sums[1] * scale

    return SumScorer(pairs, ratio)


def whole(scorer: Scorer) -> float:
    """The score of all rows."""
    return scorer.value(np.arange(scorer.num_rows))


RESAMPLES = 1000


def drawn_scores(scorer: Scorer, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """The scores of samples of the rows (bootstrap; Efron, 1979): of the same samples for each
    scorer of as many rows, so that two of them can be compared sample by sample.
    """
    generator, count = np.random.default_rng(seed), scorer.num_rows
    draws = (generator.integers(count, size=count) for _ in range(resamples))
    return np.array([scorer.value(rows) for rows in draws])


def resampled_difference(
    first: Scorer, second: Scorer, confidence: float
) -> tuple[float, float, np.ndarray] | None:
    """Of the first's score less the second's on the same rows: low, high, and the differences of
    the samples. None where a function of the user's gives too few of them.
    """
    drawn = drawn_scores(first) - drawn_scores(second)
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < RESAMPLES / 2:
        return None
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = whole(first) - whole(second)
    return min(float(low), difference), max(float(high), difference), drawn


def resampled_interval(scorer: Scorer, confidence: float) -> tuple[float, float]:
    """Percentile bootstrap over rows: low and high, around the score."""
    drawn = drawn_scores(scorer)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    score = whole(scorer)
    return min(float(low), score), max(float(high), score)


def drawn_of(measured: Scorer) -> list[float]:
    """Scores of samples of the rows; none for a mean, whose rows tell more, and where a function of
    the user's was too slow to be asked for all of them.
    """
    drawn = [] if isinstance(measured, MeanScorer) else drawn_scores(measured).tolist()
    return [] if any(math.isnan(score) for score in drawn) else drawn
