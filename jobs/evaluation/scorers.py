"""What all metrics of answers have in common: a score of any selection of the rows.

So one computation serves a whole split, a slice of it, a single row, and the resamples of a
bootstrap.
"""

from __future__ import annotations

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


def resampled_interval(
    scorer: Scorer, confidence: float, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap (Efron, 1979) over rows: low and high, around the score."""
    generator, count = np.random.default_rng(seed), scorer.num_rows
    values = [scorer.value(generator.integers(count, size=count)) for _ in range(resamples)]
    values = [value for value in values if value == value]
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    score = whole(scorer)
    return min(float(low), score), max(float(high), score)
