"""Scores of answers, with their intervals."""

from __future__ import annotations

import math
from statistics import NormalDist


def interval(hits: list[bool], confidence: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share: low and high.

    Exact arithmetic, no resampling: the bootstrap of a share has width 0 at no hit and at all hits,
    as if nothing else were possible.
    """
    rows, share = len(hits), sum(hits) / len(hits)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * rows)
    reach = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    low, high = ((middle + side * reach) / (1 + z * z / rows) for side in (-1, 1))
    # At the ends the formula gives 0 and 1 but for rounding; the share itself always lies within.
    return min(max(low, 0.0), share), max(min(high, 1.0), share)
