"""What is to be trained again when a checkpoint turns out damaged, so that the sweep ends as it would have without that.

A trial that trains by itself goes back to its own checkpoint before. Trials of a pack are rounded together: which of them share a product
decides its last bits. So those that were trained since go back together, to the newest step of which all have a whole checkpoint.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jobs import store
from jobs.shelf import steps_in, why_unreadable
from orchestrator.journal import Record

if TYPE_CHECKING:
    from orchestrator.board import Board


def forget_unknown(board: Board) -> None:
    """Delete the checkpoints that the journal does not know: what it has not heard of has not happened."""
    for index, record in board.earlier.items():
        remove_beyond(board, index, max(record.checkpoints, default=0))


def remove_beyond(board: Board, index: int, step: int) -> None:
    """Delete a trial's checkpoints beyond a step."""
    home = board.place("train", f"trial-{index:03d}")
    for found in steps_in(home):
        if found > step:
            store.remove(store.join(home, f"step-{found:06d}"))


def go_back(board: Board, index: int, step: int) -> dict[int, int]:
    """Find out to which step each trial has to go back because trial `index` cannot use its checkpoint of `step`, and delete what lies
    beyond; returns the steps by trial. Raises OSError when the storage does not answer.
    """
    records = {number: record for number, record in board.records.items() if number <= board.plan.num_trials}
    together = [number for number in records if progress(board, number) > 0] if board.packed else [index]
    places = sorted({known for known in records[index].checkpoints if known < step}, reverse=True)
    for before in [*places, 0]:
        moved = [number for number in together if progress(board, number) > before or number == index]
        if before == 0 or all(is_whole(records[number], before) for number in moved):
            break
    for number in moved:
        remove_beyond(board, number, before)
    return dict.fromkeys(moved, before)


def progress(board: Board, index: int) -> int:
    """How far a trial was trained, whatever became of it."""
    record = board.records[index]
    return max(board.logged.last(index), *record.reports, *record.checkpoints, 0)


def is_whole(record: Record, step: int) -> bool:
    """Whether a trial has a checkpoint of a step that can be used."""
    return step in record.checkpoints and why_unreadable(record.checkpoints[step]) is None


def as_before(record: Record, step: int) -> Record:
    """What was known of a trial when it had come to a step."""
    return dataclasses.replace(
        record,
        state="running",
        error=None,
        reports={known: metrics for known, metrics in record.reports.items() if known <= step},
        checkpoints={known: place for known, place in record.checkpoints.items() if known <= step},
    )
