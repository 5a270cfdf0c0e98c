"""What a pack computes once of the layers below the adapters, however often a row is met: rows that
are validated again and again, and training rows from their second epoch on. Pure.

The figures are those of jobs/pack/layers/hidden_cache.py, which keeps the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT_BYTES = 1 << 29
"""Half of what the cache may take: so much of all sources, or of one validation split, is kept."""


@dataclass(frozen=True)
class SourceRows:
    """A training source, as far as it decides how soon its rows are met again."""

    share: float
    """Part of the examples drawn from it, 0..1."""
    rows: int


def is_kept(rows: int, row_bytes: float) -> bool:
    """Whether the states of so many rows are kept."""
    return rows * row_bytes <= KEPT_BYTES


def fresh_examples(sources: Sequence[SourceRows], drawn: float, row_bytes: float) -> float:
    """How many of the first `drawn` examples are met for the first time, or again after their
    states were forgotten: of the sources that begin anew first as many are kept as fit together.
    """
    fresh, kept = 0.0, 0
    read = [source for source in sources if source.share > 0]
    for source in sorted(read, key=lambda source: source.rows / source.share):
        of_source = drawn * source.share
        if is_kept(kept + source.rows, row_bytes):
            kept += source.rows
            of_source = min(of_source, source.rows)
        fresh += of_source
    return fresh if read else drawn
