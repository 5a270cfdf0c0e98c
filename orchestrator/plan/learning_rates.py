"""Where to search the learning rate of a LoRA, from the size of the base, the share of its layers
that learn and the batch size. Pure.

The centre is tinker-cookbook's for models of the Llama kind (its hyperparam_utils.py: 5e-4 at a
hidden size of 2,000, by a power of -0.781, found at batches of 128 over 780 steps with all layers),
taken half higher for runs that are shorter, by the root of the batch size, and by the inverse root
of the share of the layers. Any rank has the same.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from orchestrator.config.left_open import RATES
from orchestrator.config.settings import Config, changed
from orchestrator.plan.timing import hidden_size

BASE_RATE, BASE_HIDDEN, POWER = 5e-4, 2000.0, 0.781
BASE_BATCH = 128
SHORT_RUNS = 1.5
BELOW, ABOVE = 8.0, 4.0
"""The range around the centre, one and a half decades: rates that are too high diverge, so it
reaches further down.
"""
LARGEST = 0.1


def good_rate(hidden: int, layers: float, batch_size: int) -> float:
    """The learning rate that is known to be good."""
    rate = BASE_RATE * (BASE_HIDDEN / hidden) ** POWER * SHORT_RUNS
    return min(rate * math.sqrt(batch_size / BASE_BATCH / layers), LARGEST / ABOVE)


def with_range(config: Config, base: Path) -> Config:
    """The configuration with the range of the learning rate for this base, where it is left
    open.
    """
    hidden = hidden_size(base)
    if RATES not in config.left_open or not hidden:
        return config
    centre = good_rate(hidden, config.adapter.layers, config.train.batch_size)
    name = RATES.rpartition(".")[2]
    knob = config.sweep.space[name]
    knob = dataclasses.replace(
        knob, low=two_digits(centre / BELOW), high=two_digits(centre * ABOVE)
    )
    space = {**config.sweep.space, name: knob}
    return changed(config, sweep=dataclasses.replace(config.sweep, space=space))


def two_digits(value: float) -> float:
    """A value as it is printed."""
    return float(f"{value:.1e}")


def settings(config: Config) -> list[str]:
    """The range as it is typed; nothing where it was chosen."""
    if RATES not in config.left_open:
        return []
    knob = config.sweep.space[RATES.rpartition(".")[2]]
    return [f"{RATES}.low={knob.low:g}", f"{RATES}.high={knob.high:g}"]
