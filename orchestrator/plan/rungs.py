"""The steps at which trials are compared, and how many go on."""

from __future__ import annotations

import math

from orchestrator.config.settings import Config


def rung_steps(config: Config) -> list[int]:
    """Steps at which trials are compared."""
    steps = config.train.eval_every
    rungs = []
    while config.sweep.scheduler != "none" and steps < config.train.steps:
        rungs.append(steps)
        steps *= config.sweep.reduction
    return [*rungs, config.train.steps]


def survivors(num_trials: int, rungs: list[int], reduction: int) -> list[int]:
    """How many trials train up to each rung under synchronous halving."""
    counts = [num_trials]
    for _ in rungs[1:]:
        counts.append(max(1, math.ceil(counts[-1] / reduction)))
    return counts
