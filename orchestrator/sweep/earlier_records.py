"""What a journal tells of a sweep that went back to an earlier checkpoint."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from orchestrator.storage.journal import Record

if TYPE_CHECKING:
    pass


def as_before(record: Record, step: int) -> Record:
    """What was known of a trial when it had come to a step."""
    return dataclasses.replace(
        record,
        state="running",
        error=None,
        inside=None,
        reports={
            at_step: metrics for at_step, metrics in record.reports.items() if at_step <= step
        },
        checkpoints={
            at_step: path for at_step, path in record.checkpoints.items() if at_step <= step
        },
    )
