"""How fast a sweep has trained, from its journal: over the time in which it really did, without
pauses. Pure.
"""

from __future__ import annotations

import bisect
import itertools
import statistics

from jobs.evaluation import registry
from jobs.files.json_types import JsonObject

MEASURE = "train/examples_per_second"
LONGEST_STEP = 10.0
LONGEST_EVALUATION = 3.0
"""A step or an evaluation that took so many times the usual was interrupted: a stopped process, a
machine asleep.
"""

TOLD_WITHIN = 0.25
"""So far apart are the moments, in seconds, at which a pack tells of its slots' common step."""

Span = tuple[float, float]
"""Begin and end, in seconds."""


def training_rate(events: list[JsonObject], batch_size: int, packed: bool) -> float | None:
    """Examples per second: a trial's median, or what all packs did together. None where fewer than
    two steps were measured.

    A pack's slots share one rate, so all their examples are counted over the time that they took
    together: the steps' own, and that of the evaluations between them. What lies between two starts
    of the command is a pause, and so is long silence between two steps. `batch_size` is that of a
    trial whose journal does not name its own.
    """
    steps = [event for event in events if is_step(event)]
    if len(steps) < 2:
        return None
    if not packed:
        return statistics.median(event["metrics"][MEASURE] for event in steps)
    sizes = {
        event["trial"]: event["params"].get("train.batch_size", batch_size)
        for event in events
        if has_params(event)
    }
    sized_steps = [(event, sizes.get(event.get("trial"), batch_size)) for event in steps]
    longest = LONGEST_STEP * statistics.median(
        size / event["metrics"][MEASURE] for event, size in sized_steps
    )
    spans = [
        span(event, min(size / event["metrics"][MEASURE], longest)) for event, size in sized_steps
    ]
    busy = united(spans)
    seconds = sum(end - begin for begin, end in busy) + between(busy, events, longest)
    return sum(size for _, size in sized_steps) / max(seconds, 1e-3)


def is_step(event: JsonObject) -> bool:
    """Whether an event tells of a step and how fast it was."""
    return event["kind"] == "metrics" and event.get("metrics", {}).get(MEASURE, 0) > 0


def has_params(event: JsonObject) -> bool:
    """Whether an event tells a trial's settings."""
    return event["kind"] == "trial" and isinstance(event.get("params"), dict)


def span(event: JsonObject, seconds: float) -> Span:
    """When a step ran that was told at its end."""
    end = event["t"] / 1000
    return end - seconds, end


def united(spans: list[Span]) -> list[Span]:
    """The same time without overlaps, in order."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return merged


def between(busy: list[Span], events: list[JsonObject], longest_breath: float) -> float:
    """Seconds between steps that belong to the work: evaluations, which follow a step with a
    report, and the short breath before a next step. A gap in which the command started anew is
    none.
    """
    reports = {
        (event.get("trial"), event["step"])
        for event in events
        if event["kind"] == "report" and is_rung(event)
    }
    due = sorted(
        event["t"] / 1000
        for event in events
        if is_step(event) and (event.get("trial"), event.get("step")) in reports
    )
    starts = sorted(event["t"] / 1000 for event in events if event["kind"] == "sweep")
    gaps = [
        (end, begin)
        for (_, end), (begin, _) in itertools.pairwise(busy)
        if not holds(starts, end, begin)
    ]
    evaluations = [after - end for end, after in gaps if holds(due, end - TOLD_WITHIN, end)]
    longest = LONGEST_EVALUATION * statistics.median_low(evaluations) if evaluations else 0.0
    breaths = [after - end for end, after in gaps if not holds(due, end - TOLD_WITHIN, end)]
    return sum(min(length, longest) for length in evaluations) + sum(
        length for length in breaths if length <= longest_breath
    )


def is_rung(event: JsonObject) -> bool:
    """Whether a report is an evaluation's, rather than what the test split said later."""
    return any(name.startswith(f"{registry.VALID}/") for name in event["metrics"])


def holds(moments: list[float], begin: float, end: float) -> bool:
    """Whether one of the moments, in order, lies in a span."""
    following = bisect.bisect_left(moments, begin)
    return following < len(moments) and moments[following] <= end
