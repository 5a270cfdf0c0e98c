"""The keys of trials whose tasks share packs: which task of a fleet a trial is of, and its number
there, as one number. Pure.

A sweep by itself is task 0, whose trials' keys are their numbers.
"""

from __future__ import annotations

NUMBERS_OF_A_TASK = 100_000_000
"""More than the highest number of a finalist's run; see orchestrator/config/run_numbers.py."""


def key_of(task: int, index: int) -> int:
    """The key of trial `index` of a task."""
    return task * NUMBERS_OF_A_TASK + index


def task_of(key: int) -> int:
    """The task of a trial; 0 for what is no trial, such as a pack's own number below 0."""
    return max(key, 0) // NUMBERS_OF_A_TASK


def index_of(key: int) -> int:
    """The trial's number in its task."""
    return key - task_of(key) * NUMBERS_OF_A_TASK
