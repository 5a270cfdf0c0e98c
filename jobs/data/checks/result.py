"""What a check says of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.data.corpus import Corpus
from jobs.data.readers import Row

MOST_EXAMPLES = 3
"""Rows that are shown of each kind."""
SHOWN = 70


@dataclass
class CheckResult:
    """The outcome of one check, ready for json.dumps."""

    name: str
    summary: str
    """What was looked at and what came of it, in a line."""
    warnings: list[str] = field(default_factory=list)
    """What should be looked at, a line each; the plan has them among its notes."""
    details: list[str] = field(default_factory=list)
    """Examples and counts that job=check shows below."""
    fatal: str = ""
    """Why a run is refused, with the remedy; empty where it is not."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The same as numbers, for output=json."""

    @property
    def state(self) -> str:
        """fatal, warning or ok."""
        if self.fatal:
            return "fatal"
        return "warning" if self.warnings else "ok"


def groups_of_rows(corpus: Corpus) -> Iterator[tuple[str, list[Row]]]:
    """The rows of every source by its name, and of the held-out splits as valid and test."""
    yield from corpus.sources.items()
    yield "valid", corpus.valid
    yield "test", corpus.test


def place(row: Row) -> str:
    """Where a row stands, without the folders."""
    return row.place.rpartition("/")[2]


def excerpt(text: str) -> str:
    """The beginning of a text, on one line and in quotes."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[:SHOWN]}...")


def asked(row: Row) -> str:
    """What is asked in a row: its last message before the answer, without the instruction."""
    text = str(row.context[-1].get("content") or "")
    if row.instruction and text.startswith(row.instruction):
        return text[len(row.instruction) :]
    return text


def share(count: int, total: int) -> str:
    """12 of 300 rows (4.0%)."""
    return f"{count:,} of {total:,} rows ({count / max(total, 1):.1%})"
