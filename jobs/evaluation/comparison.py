"""Is one model better than another on the same rows? Tests on pairs of scores, and what a number of
rows can show at all.

Works on scores per row and the direction of their metric, so it serves every metric. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from jobs.evaluation.intervals import RESAMPLES, SEED, is_share

POWER = 0.8
"""How often a difference that is really there should be noticed."""
DISAGREEMENT = 0.25
"""Share of the rows on which one of two models is right and the other wrong, while it is not
measured: two runs of one sweep disagree on less, a model and its base often on more.
"""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows."""

    difference: float
    """Mean score of the one minus that of the other, as the metric counts."""
    low: float
    """Lower end of the interval around the difference."""
    high: float
    p_value: float
    """How often a model that is not better would look so much better by chance (one-sided)."""
    rows: int
    wins: int
    """Rows on which the first scores better."""
    losses: int


def compare(
    scores: Sequence[float],
    others: Sequence[float],
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two models row by row. Shares: McNemar's exact test (1947) on the rows where they
    differ; other scores: a studentised bootstrap of the differences. Raises ValueError when the
    rows are not the same number.
    """
    if len(scores) != len(others) or not len(scores):
        raise ValueError(f"{len(scores)} and {len(others)} scores cannot be compared row by row")
    sign = 1.0 if higher_is_better else -1.0
    gains = [sign * (first - second) for first, second in zip(scores, others, strict=True)]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    if is_share(scores) and is_share(others):
        p_value = mcnemar(wins, losses)
        low, high = share_difference(wins, losses, len(gains), confidence)
    else:
        p_value, low, high = bootstrap_gain(gains, confidence)
    mean = sum(gains) / len(gains)
    if not higher_is_better:
        low, high = -high, -low
    return Comparison(sign * mean, low, high, p_value, len(gains), wins, losses)


def mcnemar(wins: int, losses: int) -> float:
    """One-sided p-value of `wins` among the rows on which exactly one of two models is right."""
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue)


def share_difference(wins: int, losses: int, rows: int, confidence: float) -> tuple[float, float]:
    """An interval around the difference of two shares of the same rows (Agresti and Min, 2005):
    half a row is added to each cell, so that it has a width also where the two never differ.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    better, worse, total = wins + 0.5, losses + 0.5, rows + 2.0
    middle = (better - worse) / total
    reach = z * math.sqrt(max(better + worse - (better - worse) ** 2 / total, 0.0)) / total
    return max(middle - reach, -1.0), min(middle + reach, 1.0)


def bootstrap_gain(gains: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """One-sided p-value of a mean gain above 0, and its interval, by resampling rows and dividing
    each sample's mean by its own error (Efron and Tibshirani, 1993).
    """
    import numpy as np

    values = np.asarray(gains, float)
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    if not error > 0 or not math.isfinite(mean):
        return 1.0, mean, mean
    drawn = np.random.default_rng(SEED)
    ratios = []
    at_once = max(1, 2_000_000 // len(values))
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        sample = values[drawn.integers(0, len(values), (count, len(values)))]
        spread = sample.std(axis=1, ddof=1) / math.sqrt(len(values))
        shift = sample.mean(axis=1) - mean
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(spread > 0, shift / spread, np.sign(shift) * np.inf)
        ratios.append(np.where(np.isnan(ratio), 0.0, ratio))
    sampled = np.sort(np.concatenate(ratios))
    p_value = (1 + int((sampled >= mean / error).sum())) / (1 + len(sampled))
    tail = (1 - confidence) / 2
    below, above = (
        float(np.quantile(sampled, quantile, method="nearest")) for quantile in (tail, 1 - tail)
    )
    return float(p_value), mean - above * error, mean - below * error


def compare_apart(
    value: float,
    interval: tuple[float, float],
    other: float,
    other_interval: tuple[float, float],
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> float:
    """One-sided p-value where only means and their intervals are known, as if the two were measured
    on different rows: it needs a larger difference than a comparison row by row.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    errors = [(high - low) / (2 * z) for low, high in (interval, other_interval)]
    gain = value - other if higher_is_better else other - value
    spread = math.hypot(*errors)
    if gain <= 0 or not math.isfinite(gain):
        return 1.0
    return 1 - NormalDist().cdf(gain / spread) if spread > 0 else 0.0


def false_discoveries_held(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that among those below a level at most that share is there by chance
    (Benjamini and Hochberg, 1995).
    """
    if len(p_values) < 2:
        return list(p_values)
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(list(p_values), method="bh")]


def smallest_difference(
    rows: int, error_rate: float, disagreement: float = DISAGREEMENT, power: float = POWER
) -> float | None:
    """The smallest difference between two shares of the same rows that McNemar's test notices with
    this power, at most 1; None where so few rows can show none. Miettinen's formula (1968).
    """
    fewest = math.ceil(math.log(error_rate) / math.log(0.5))
    if rows < fewest:
        return None
    normal = NormalDist()
    level, reach = normal.inv_cdf(1 - error_rate), normal.inv_cdf(power)
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        share = max(disagreement, middle)
        needed = (
            level * math.sqrt(share) + reach * math.sqrt(max(share - middle * middle, 0.0))
        ) ** 2
        low, high = (low, middle) if rows * middle * middle >= needed else (middle, high)
    # Half a row each way: the exact test knows whole rows only.
    return min(max(high + 1 / rows, fewest / rows), 1.0)
