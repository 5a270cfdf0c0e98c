"""How sure a mean over rows is: an interval around it, for any score per row."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.evaluation.metrics import interval

RESAMPLES = 4_999
"""Samples of a bootstrap: enough that its own noise does not show in three digits."""
SEED = 0
"""The same rows give the same interval on every machine."""


def is_share(scores: Sequence[float]) -> bool:
    """Whether every row is right or wrong, so that the mean is a share of rows."""
    return all(score in (0.0, 1.0) for score in scores)


def mean_interval(scores: Sequence[float], confidence: float) -> tuple[float, float]:
    """Low and high end of an interval around the mean of `scores`.

    Wilson's for shares, which has a width also at no hit and at all hits; otherwise the
    bias-corrected and accelerated bootstrap (BCa; Efron, 1987), which follows a skewed
    distribution. Scores that are all alike show no spread, so their interval has no width. Raises
    ValueError without any score.
    """
    if not len(scores):
        raise ValueError("no rows were scored, so there is no interval")
    if is_share(scores):
        return interval([score == 1.0 for score in scores], confidence)
    import numpy as np
    from scipy.stats import bootstrap

    values = np.asarray(scores, float)
    mean = float(values.mean())
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return mean, mean
    drawn = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        batch=max(1, 2_000_000 // len(values)),
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return min(float(drawn.low), mean), max(float(drawn.high), mean)
