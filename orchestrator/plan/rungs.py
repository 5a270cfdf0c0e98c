"""The steps at which trials are compared, and how many go on."""

from __future__ import annotations

import math

from orchestrator.config.settings import Config


def rung_steps(config: Config, lasting: float = math.inf) -> list[int]:
    """Steps at which trials are compared. The last is where a trial that is never stopped ends: at
    train.steps, or earlier where its rows are used up after `lasting` steps.
    """
    last = int(max(min(config.train.steps, lasting), 1))
    steps = config.train.eval_every
    rungs = []
    while config.sweep.scheduler != "none" and steps < last:
        rungs.append(steps)
        steps *= config.sweep.reduction
    return [*rungs, last]


def survivors(num_trials: int, rungs: list[int], reduction: int) -> list[int]:
    """How many trials train up to each rung under synchronous halving."""
    counts = [num_trials]
    for _ in rungs[1:]:
        counts.append(max(1, math.ceil(counts[-1] / reduction)))
    return counts
