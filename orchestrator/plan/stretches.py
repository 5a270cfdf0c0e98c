"""How much of a planned search is done, and how much is to come, by how far its trials are. Pure.

A trial's steps count one by one, and its evaluations when they have been: an evaluation may take as
long as all steps before it. So the two are kept apart: `steps` are where trials have come to, and
`evaluated` where they have met the validation rows last.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.plan.timing import Phase


def seconds_done(phases: Sequence[Phase], steps: Sequence[int], evaluated: Sequence[int]) -> float:
    """Planned seconds of what trials have done that have come to `steps`."""
    seconds = 0.0
    for phase in phases:
        seconds += (phase.seconds - phase.evaluating) * share_of(phase, steps, 1)
        if phase.evaluating > 0:
            seconds += phase.evaluating * share_of(phase, evaluated, phase.every)
    return seconds


def steps_done(phases: Sequence[Phase], steps: Sequence[int]) -> float:
    """How many of the planned steps lie behind such trials."""
    return sum(phase.steps * share_of(phase, steps, 1) for phase in phases)


def seconds_to_come(
    phases: Sequence[Phase], steps: Sequence[int], evaluated: Sequence[int], alive: int
) -> float:
    """Planned seconds of what is to come: of as many trials as were planned, or of those that are
    `alive` where these are fewer. `steps` and `evaluated` are of those that train on, the furthest
    first.
    """
    seconds = 0.0
    for phase in phases:
        seconds += (phase.seconds - phase.evaluating) * share_to_come(phase, steps, alive, 1)
        if phase.evaluating > 0:
            seconds += phase.evaluating * share_to_come(phase, evaluated, alive, phase.every)
    return seconds


def steps_to_come(phases: Sequence[Phase], steps: Sequence[int], alive: int) -> float:
    """How many of the planned steps are to come."""
    return sum(phase.steps * share_to_come(phase, steps, alive, 1) for phase in phases)


def share_of(phase: Phase, steps: Sequence[int], every: int) -> float:
    """Which share of a stretch's moments, `every` steps apart and one at its end, lies behind
    trials that have come to `steps`.
    """
    most = phase.trials * moments(phase, phase.end, every)
    passed = sum(moments(phase, step, every) for step in steps)
    return min(passed / max(most, 1), 1.0)


def share_to_come(phase: Phase, steps: Sequence[int], alive: int, every: int) -> float:
    """Which share of a stretch's moments lies before the trials that will pass it: as many as were
    planned, or as are `alive` where fewer are. `steps` are where these are, the furthest first; who
    is not among them has not begun.
    """
    each = moments(phase, phase.end, every)
    count = min(phase.trials, alive)
    passed = sum(moments(phase, step, every) for step in steps[:count])
    return max(count * each - passed, 0) / max(phase.trials * each, 1)


def moments(phase: Phase, step: int, every: int) -> int:
    """How many moments of a stretch lie behind a trial that has come to a step."""
    step = min(max(step, phase.begin), phase.end)
    within = (step // every) - (phase.begin // every)
    return within + int(step == phase.end and step % every > 0)
