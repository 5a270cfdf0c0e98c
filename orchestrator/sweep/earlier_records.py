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
        reports={known: metrics for known, metrics in record.reports.items() if known <= step},
        checkpoints={known: place for known, place in record.checkpoints.items() if known <= step},
    )
