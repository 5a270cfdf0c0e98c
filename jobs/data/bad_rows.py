"""Rows of a file that nothing can be made of: named and skipped, up to a limit, or refused."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def skip(self, problem: str) -> None:
        """Skip one more row. Raises ValueError where so many may not be skipped."""
        if self.limit == 0:
            raise ValueError(problem)
        self.problems.append(problem)
        if len(self.problems) > self.limit:
            raise ValueError(
                f"more rows than data.bad_rows={self.limit} cannot be used: "
                f"{'; '.join(self.problems[:SHOWN])}; mend them, or raise data.bad_rows"
            )


def skipped_note(use: str, limit: int, problems: list[str]) -> list[str]:
    """What is said of the rows of one use that were skipped."""
    if not problems:
        return []
    count = len(problems)
    named = "; ".join(problems[:SHOWN]) + (f"; and {count - SHOWN} more" if count > SHOWN else "")
    rows = "1 row was" if count == 1 else f"{count:,} rows were"
    return [f"{use}: {rows} skipped (data.bad_rows={limit}): {named}"]
