"""What is to be trained again when a checkpoint turns out damaged, so that the sweep ends as it
would have without that.

A trial that trains by itself goes back to its own checkpoint before. Trials of a pack are rounded
together: which of them share a product decides its last bits. So those that were trained since go
back together, to the newest step of which all have a whole checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.files import filesystem
from jobs.files.checkpoints import steps_in, why_unreadable
from orchestrator.storage.journal import Record

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState


def forget_unknown(board: SweepState) -> None:
    """Delete the checkpoints that the journal does not know: what it has not heard of has not
    happened.
    """
    for index, record in board.earlier.items():
        remove_beyond(board, index, max(record.checkpoints, default=0))


def remove_beyond(board: SweepState, index: int, step: int) -> None:
    """Delete a trial's checkpoints beyond a step."""
    home = board.place("train", f"trial-{index:03d}")
    for found in steps_in(home):
        if found > step:
            filesystem.remove(filesystem.join(home, f"step-{found:06d}"))


def go_back(board: SweepState, index: int, step: int) -> dict[int, int]:
    """Find out to which step each trial has to go back because trial `index` cannot use its
    checkpoint of `step`, and delete what lies beyond; returns the steps by trial. Raises OSError
    when the storage does not answer.
    """
    records = {
        number: record for number, record in board.records.items() if number in board.indices
    }
    together = (
        [number for number in records if progress(board, number) > 0] if board.packed else [index]
    )
    places = sorted({known for known in records[index].checkpoints if known < step}, reverse=True)
    for before in [*places, 0]:
        moved = [
            number for number in together if progress(board, number) > before or number == index
        ]
        if before == 0 or all(is_whole(records[number], before) for number in moved):
            break
    for number in moved:
        remove_beyond(board, number, before)
    return dict.fromkeys(moved, before)


def progress(board: SweepState, index: int) -> int:
    """How far a trial was trained, whatever became of it."""
    record = board.records[index]
    return max(board.logged.last(index), *record.reports, *record.checkpoints, 0)


def is_whole(record: Record, step: int) -> bool:
    """Whether a trial has a checkpoint of a step that can be used."""
    return step in record.checkpoints and why_unreadable(record.checkpoints[step]) is None
