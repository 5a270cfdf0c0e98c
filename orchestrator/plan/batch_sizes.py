"""How many examples a step takes where train.batch_size is searched: on the average of all trials,
and at most. Pure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from orchestrator.config.search_space import Knob
from orchestrator.config.settings import Config

PATH = "train.batch_size"


def mean_batch(config: Config) -> float:
    """Examples of a step, as the mean of the values that are searched."""
    knob = knob_of(config.sweep.space, PATH)
    return config.train.batch_size if knob is None else max(mean_of(config.sweep.space, knob), 1.0)


def largest_batch(config: Config) -> float:
    """Examples of a step at most."""
    knob = knob_of(config.sweep.space, PATH)
    ends = (config.train.batch_size,) if knob is None else ends_of(config.sweep.space, knob)
    return max(*ends, 1.0)


def knob_of(space: Mapping[str, Knob], path: str | None) -> Knob | None:
    """The knob that searches a setting."""
    return next((knob for knob in space.values() if knob.path == path), None)


def mean_of(space: Mapping[str, Knob], knob: Knob) -> float:
    """The mean of a knob's numbers."""
    numbers = numbers_of(knob)
    if numbers:
        return statistics.fmean(numbers)
    followed = knob_of(space, knob.to)
    if knob.type == "linked" and followed is not None:
        return knob.times * mean_of(space, followed) + knob.plus
    low, high = ends_of(space, knob)
    if knob.type == "loguniform" and low < high:
        return (high - low) / math.log(high / low)
    return (low + high) / 2


def ends_of(space: Mapping[str, Knob], knob: Knob) -> tuple[float, float]:
    """The least and the most of a knob's numbers."""
    numbers = numbers_of(knob)
    if numbers:
        return min(numbers), max(numbers)
    followed = knob_of(space, knob.to)
    if knob.type == "linked" and followed is not None:
        ends = [knob.times * end + knob.plus for end in ends_of(space, followed)]
        return min(ends), max(ends)
    return knob.low or 0.0, knob.high or 0.0


def numbers_of(knob: Knob) -> list[float]:
    """The numbers among the values that a knob lists."""
    return [float(value) for value in knob.values or [] if isinstance(value, int | float)]
