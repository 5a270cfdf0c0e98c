"""Rows of a file that nothing can be made of: named and skipped, up to a limit, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

Record = TypeVar("Record")

SHOWN = 3
"""Skipped rows that a note names."""


@dataclass(frozen=True)
class UnreadableLine:
    """In the place of a record: a line of which not even its form can be read."""

    problem: str
    """File, line, what is wrong, and the remedy."""


@dataclass
class BadRows:
    """The skipped rows of one file, and how many may be."""

    limit: int = 0
    problems: list[str] = field(default_factory=list)
    """A line for each skipped row: file, line and what is wrong."""

    count: int = 0
    """Bad rows so far, also where none may be skipped."""

    def skip(self, problem: str) -> None:
        """Skip one more row. Raises ValueError where so many may not be skipped; where none may,
        they are counted first, see `refuse`.
        """
        self.count += 1
        if self.limit > 0 or not self.problems:
            self.problems.append(problem)
        if 0 < self.limit < self.count:
            raise ValueError(
                f"more rows than data.bad_rows={self.limit} cannot be used: "
                f"{'; '.join(self.problems[:SHOWN])}; mend them, or raise data.bad_rows"
            )

    def reading(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records of the file. What ends it is told only where no row before it is bad."""
        try:
            yield from records
        except ValueError:
            self.refuse(0)
            raise

    def refuse(self, num_rows: int) -> None:
        """Raise ValueError with the first bad row where none may be skipped; beside at least as
        many good ones, `num_rows`, with the setting that skips them.
        """
        if self.limit > 0 or not self.problems:
            return
        rows = "it" if self.count == 1 else f"the {self.count:,} rows of which nothing can be made"
        advice = f"; or skip {rows}: data.bad_rows={self.count}" if self.count <= num_rows else ""
        raise ValueError(self.problems[0] + advice)


def skipped_note(use: str, limit: int, problems: list[str]) -> list[str]:
    """What is said of the rows of one use that were skipped."""
    if not problems:
        return []
    count = len(problems)
    named = "; ".join(problems[:SHOWN]) + (f"; and {count - SHOWN} more" if count > SHOWN else "")
    rows = "1 row was" if count == 1 else f"{count:,} rows were"
    return [f"{use}: {rows} skipped (data.bad_rows={limit}): {named}"]
