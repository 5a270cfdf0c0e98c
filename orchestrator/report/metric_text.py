"""Units and intervals of metrics, for axes and sentences. Pure."""

from __future__ import annotations

import math
from statistics import NormalDist

from jobs.evaluation import registry


def unit(metric: str) -> str:
    """The unit that an axis of this metric names."""
    try:
        entry = registry.metric_of(metric)
    except KeyError:
        return "no unit"
    return f"{entry.unit}, 0 to 1" if entry.share else entry.unit


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return unit(metric).endswith("0 to 1")


def is_counted(metric: str) -> bool:
    """Whether a metric counts rows, so that its interval follows from their number."""
    try:
        return registry.metric_of(metric).share
    except KeyError:
        return False


def wilson(share: float, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of so many rows."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * rows)
    reach = z * math.sqrt(max(share * (1 - share), 0) / rows + z * z / (4 * rows * rows))
    low, high = ((middle + side * reach) / (1 + z * z / rows) for side in (-1, 1))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def noise(one: float, other: float, rows: int, confidence: float = 0.95) -> float:
    """The difference that two shares of so many rows can have by chance alone (Newcombe, 1998: from
    the two Wilson intervals, so that it is not 0 where nobody has a hit).
    """
    high, low = max(one, other), min(one, other)
    down = high - wilson(high, rows, confidence)[0]
    above = wilson(low, rows, confidence)[1] - low
    return math.sqrt(down * down + above * above)


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A number with so many significant digits, as the page holds it."""
    return None if value is None else float(f"{value:.{digits}g}")


def shown(value: object) -> str:
    """A value of a setting or a metric in a sentence."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
