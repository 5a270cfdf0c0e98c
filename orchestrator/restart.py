"""When the training of a sweep starts again within its command, from what is done: after a process
was lost, and with fewer trials at once where the memory does not hold so many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from orchestrator.output.console import plural
from orchestrator.plan.fewer_slots import with_fewer_slots
from orchestrator.plan.planner import Plan
from orchestrator.storage.journal import Journal

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState


class RestartingCommand(Protocol):
    """What a restart needs of the command that runs the sweep; see pipeline.SweepCommand."""

    plan: Plan
    journal: Journal
    alone: str
    """What is left to do where the memory does not hold the least number of trials."""


def why_again(command: RestartingCommand, sweep_state: SweepState) -> str | None:
    """Why the sweep goes on from what is done, which is said; None where it does not. Where the
    memory is too small, the command's plan is one of fewer trials at once from now on.
    """
    if (
        sweep_state.interrupted
        or sweep_state.fault is not None
        or sweep_state.abort_reason is not None
    ):
        return None
    if sweep_state.crowded is not None:
        return with_fewer(command, sweep_state, sweep_state.crowded)
    if sweep_state.lost is not None:
        sweep_state.screen.note(f"{sweep_state.lost}; the sweep goes on from what is done")
        return sweep_state.lost
    return None


def with_fewer(command: RestartingCommand, sweep_state: SweepState, why: str) -> str | None:
    """Have fewer trials train at once; where there is nothing less, the sweep has failed."""
    smaller = with_fewer_slots(command.plan)
    if smaller is None:
        sweep_state.abort_reason = f"{why}; {command.alone}"
        return None
    before, now = command.plan.resources, smaller.resources
    if now.packs:
        size = f"{plural(now.concurrent, 'slot')} instead of {before.concurrent}"
    elif now.concurrent == 1:
        size = "one trial at a time, by itself"
    else:
        size = f"{plural(now.concurrent, 'trial')} at a time instead of {before.concurrent}"
    note = f"out of memory ({why}): goes on with {size}"
    sweep_state.screen.note(note)
    for index in sorted(sweep_state.started):
        if sweep_state.records[index].state == "interrupted":
            command.journal.append("tags", trial=index, tags={"note": note})
    command.journal.append("tags", trial=None, tags={"note": note})
    command.plan = smaller
    return why
