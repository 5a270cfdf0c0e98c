"""Where to search the learning rate of a LoRA, from the size of the base, the share of its layers
that learn, the batch size and the number of steps. Pure.

The centre is tinker-cookbook's for models of the Llama kind (its hyperparam_utils.py: 5e-4 at a
hidden size of 2,000, by a power of -0.781, found at batches of 128 over 780 steps with all layers),
taken half higher for runs of up to a hundred steps and less so for longer ones, by the root of the
batch size, and by the inverse root of the share of the layers. Any rank has the same.
"""

from __future__ import annotations

import math

BASE_RATE, BASE_HIDDEN, POWER = 5e-4, 2000.0, 0.781
BASE_BATCH, BASE_STEPS = 128, 780
SHORT_RUNS, SHORT_STEPS = 1.5, 100
"""The factor of a run of at most so many steps; from there to BASE_STEPS it falls to 1 with the
logarithm of the steps.
"""
BELOW, ABOVE = 8.0, 4.0
"""The range around the centre, one and a half decades: rates that are too high diverge, so it
reaches further down.
"""
FIRST = (1.0, 0.5, 2.0)
"""The first trials' rates, as multiples of the centre."""
LARGEST = 0.1


def good_rate(hidden: int, layers: float, batch_size: int, steps: int) -> float:
    """The learning rate that is known to be good."""
    rate = BASE_RATE * (BASE_HIDDEN / hidden) ** POWER * for_length(steps)
    return min(rate * math.sqrt(batch_size / BASE_BATCH / layers), LARGEST / ABOVE)


def for_length(steps: int) -> float:
    """How much higher the rate of so many steps is than that of a long run."""
    share = math.log(max(steps, 1) / SHORT_STEPS) / math.log(BASE_STEPS / SHORT_STEPS)
    return SHORT_RUNS - (SHORT_RUNS - 1.0) * min(max(share, 0.0), 1.0)


def range_around(centre: float) -> tuple[float, float]:
    """The range that is searched around a good rate."""
    return two_digits(centre / BELOW), two_digits(centre * ABOVE)


def first_rates(centre: float, low: float, high: float) -> list[float]:
    """The first trials' rates within a range; none where the centre lies outside."""
    if not low <= centre <= high:
        return []
    rates = [two_digits(centre * factor) for factor in FIRST]
    return [rate for rate in rates if low <= rate <= high]


def two_digits(value: float) -> float:
    """A value as it is printed."""
    return float(f"{value:.1e}")
