"""The numbers of training runs: a trial has its own, and a finalist that is trained again has one
that tells its trial and its seed. Pure.

A number must stay the same however wide the sweep becomes, so finalists are counted beyond the
largest sweep.
"""

from __future__ import annotations

from orchestrator.config.settings import MOST_TRIALS


def finalist_number(trial: int, seed_number: int) -> int:
    """The number of the run of `trial` under another seed, or its own with another schedule;
    `seed_number` counts from 0, the trial's own seed.
    """
    return (seed_number + 1) * MOST_TRIALS + trial


def is_finalist(number: int) -> bool:
    """Whether a run is one of a finalist, beside the trials of the sweep."""
    return number > MOST_TRIALS


def trial_number(number: int) -> int:
    """The trial that a run is of."""
    return (number - 1) % MOST_TRIALS + 1


def seed_number(number: int) -> int:
    """Which of a finalist's seeds a run has, from 0."""
    return (number - 1) // MOST_TRIALS - 1


def label(number: int) -> str:
    """What a run is called in texts: trial 6, or finalist 6 seed 2."""
    if not is_finalist(number):
        return f"trial {number}"
    return f"finalist {trial_number(number)} seed {seed_number(number) + 1}"


def run_name(number: int) -> str:
    """What a run is called in the tracking store: names that sort as their trials do."""
    name = f"trial-{trial_number(number):03d}"
    return f"{name}-seed-{seed_number(number) + 1:02d}" if is_finalist(number) else name
