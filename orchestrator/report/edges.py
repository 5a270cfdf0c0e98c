"""Whether a knob's best value lies at an end of what was searched, and what is beyond. Pure."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.report.sweep_data import finite

EDGE_SHARE = 0.05
"""So near to an end of its range, as a share of it, a value counts as at the edge."""


def edge_of(knob: dict[str, Any], value: Any) -> str | None:
    """ "lower" or "upper" where a value lies at an end of its knob's range, else None."""
    ends = range_of(knob)
    position = finite(value)
    if ends is None or position is None:
        return None
    low, high = ends
    if knob.get("type") == "loguniform" and low > 0 and position > 0:
        low, high, position = math.log(low), math.log(high), math.log(position)
    reach = (high - low) * EDGE_SHARE
    if reach <= 0:
        return None
    if position <= low + reach:
        return "lower"
    return "upper" if position >= high - reach else None


def range_of(knob: dict[str, Any]) -> tuple[float, float] | None:
    """Both ends of what a knob searches; None for texts and for knobs that follow another."""
    if knob.get("type") == "linked":
        return None
    values = knob.get("values")
    if isinstance(values, list) and values:
        positions = [finite(value) for value in values]
        if len(positions) < 2 or any(position is None for position in positions):
            return None
        return min(n for n in positions if n is not None), max(
            n for n in positions if n is not None
        )
    low, high = finite(knob.get("low")), finite(knob.get("high"))
    return None if low is None or high is None else (low, high)


def widened(name: str, knob: dict[str, Any], side: str) -> str | None:
    """The setting that searches beyond an end; None where nothing lies there."""
    ends = range_of(knob)
    assert ends is not None
    low, high = ends
    whole = all(float(end).is_integer() for end in ends) and knob.get("type") != "uniform"
    values = knob.get("values")
    logarithmic = knob.get("type") == "loguniform" or values is not None
    if logarithmic and low > 0:
        end = high * 4 if side == "upper" else low / 4
    else:
        end = high + (high - low) / 2 if side == "upper" else low - (high - low) / 2
    if side == "lower" and low >= 0:
        end = max(end, 0.0)
    if side == "upper" and is_bounded_by_one(knob["path"]):
        end = min(end, 1.0)
    if whole:
        end = max(round(end), 1 if low >= 1 else round(end))
    if end in (low, high):
        return None
    if values is not None:
        text = ",".join(f"{value:g}" for value in sorted([*values, end]))
        return f"sweep.space.{name}.values=[{text}]"
    setting = knob.get("setting") or f"sweep.space.{name}"
    return f"{setting}.{'high' if side == 'upper' else 'low'}={end:g}"


def is_bounded_by_one(path: str) -> bool:
    """Whether a setting is a share."""
    return path.endswith((".weight", "dropout", "layers", "_share", "beta1", "beta2"))
