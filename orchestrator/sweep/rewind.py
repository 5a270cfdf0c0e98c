"""What is to be trained again when a checkpoint turns out damaged, so that the sweep ends as it
would have without that.

A trial that trains by itself goes back to its own checkpoint before. Trials of a pack are rounded
together: which of them share a product decides its last bits. So those that were trained since go
back together, to the newest step of which all have a whole checkpoint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jobs.files import filesystem
from jobs.files.checkpoints import steps_in, why_unreadable
from orchestrator.config.run_numbers import label
from orchestrator.storage.journal import Journal, Record

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState


def forget_unknown(sweep_state: SweepState) -> None:
    """Delete the checkpoints that the journal does not know: what it has not heard of has not
    happened. Of trials that it does not know at all there are some where lines of it are damaged.
    """
    for index, record in sweep_state.earlier.items():
        remove_beyond(sweep_state, index, max(record.checkpoints, default=0))
    if sweep_state.journal.num_damaged:
        for index in set(sweep_state.numbers()) - sweep_state.earlier.keys():
            remove_beyond(sweep_state, index, 0)


def remove_beyond(sweep_state: SweepState, index: int, step: int) -> None:
    """Delete a trial's checkpoints beyond a step."""
    home = sweep_state.place("train", f"trial-{index:03d}")
    for checkpoint_step in steps_in(home):
        if checkpoint_step > step:
            filesystem.remove(filesystem.join(home, f"step-{checkpoint_step:06d}"))


def go_back_from_damage(
    sweep_state: SweepState, journal: Journal, damaged: tuple[str, str]
) -> dict[int, int]:
    """From a checkpoint that cannot be used to the one before it, or to the start; returns the step
    that each trial goes back to. `damaged` is its place, and why it cannot be used.
    """
    checkpoint, why = damaged
    index, step = trial_and_step(checkpoint)
    back = go_back(sweep_state, index, step)
    where = f"step {back[index]}" if back[index] else "the start"
    others = [str(trial) for trial in sorted(back) if trial != index]
    beside = ""
    if others:
        plural = "s" if len(others) > 1 else ""
        beside = f", and beside it trial{plural} {', '.join(others)}"
        beside += ", so that the result stays the same"
    text = f"{checkpoint} is damaged ({why}); {label(index)} goes on from {where}{beside}"
    sweep_state.screen.note(text)
    journal.append("tags", trial=None, tags={"note": text})
    return back


def trial_and_step(checkpoint: str) -> tuple[int, int]:
    """Of which trial and step a checkpoint's place is."""
    index, step = (int(digits) for digits in re.findall(r"(?:trial|step)-(\d+)", checkpoint)[-2:])
    return index, step


def go_back(sweep_state: SweepState, index: int, step: int) -> dict[int, int]:
    """Find out to which step each trial has to go back because trial `index` cannot use its
    checkpoint of `step`, and delete what lies beyond; returns the steps by trial. Raises OSError
    when the storage does not answer.
    """
    records = {
        trial: record for trial, record in sweep_state.records.items() if sweep_state.belongs(trial)
    }
    together = (
        [trial for trial in records if progress(sweep_state, trial) > 0]
        if sweep_state.packed
        else [index]
    )
    earlier_steps = sorted(
        {
            checkpoint_step
            for checkpoint_step in records[index].checkpoints
            if checkpoint_step < step
        },
        reverse=True,
    )
    for before in [*earlier_steps, 0]:
        moved = [
            trial for trial in together if progress(sweep_state, trial) > before or trial == index
        ]
        if before == 0 or all(is_whole(records[trial], before) for trial in moved):
            break
    for trial in moved:
        remove_beyond(sweep_state, trial, before)
    return dict.fromkeys(moved, before)


def progress(sweep_state: SweepState, index: int) -> int:
    """How far a trial was trained, whatever became of it."""
    record = sweep_state.records[index]
    return max(sweep_state.logged.last(index), *record.reports, *record.checkpoints, 0)


def is_whole(record: Record, step: int) -> bool:
    """Whether a trial has a checkpoint of a step that can be used."""
    return step in record.checkpoints and why_unreadable(record.checkpoints[step]) is None
