"""Which rows of a source are taken: by the values of their columns, each once, so many of them.

All three depend on the rows alone, never on their order in the file or on the machine.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.data.messages import quote, visible
from jobs.source_rows import WhereValue

if TYPE_CHECKING:
    from jobs.data.readers import Row

MOST_SHOWN = 8
MOST_COUNTED = 1000
"""Different values of a column that are counted for a message."""


class Filter:
    """Takes records whose columns have certain values, and remembers what it has seen."""

    def __init__(self, where: Mapping[str, WhereValue | list[WhereValue]]) -> None:
        self.where = {
            column: {plain(one) for one in (value if isinstance(value, list) else [value])}
            for column, value in where.items()
        }
        self.values: dict[str, Counter[str]] = {column: Counter() for column in where}
        self.columns: set[str] = set()

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has one of the wanted values in each of the columns."""
        self.columns.update(record)
        taken = True
        for column, wanted in self.where.items():
            value = plain(record.get(column))
            seen = self.values[column]
            if value in seen or len(seen) < MOST_COUNTED:
                seen[value] += 1
            taken = taken and value in wanted
        return taken

    def check_columns(self, path: str) -> None:
        """Raise ValueError for a column that no record has."""
        for column in self.where:
            if column not in self.columns:
                raise ValueError(f"{path}: {self.missing(column)}")

    def missing(self, column: str) -> str:
        """That no row has a column, with the most similar one."""
        near = difflib.get_close_matches(column, sorted(self.columns), n=1, cutoff=0.6)
        advice = f'; did you mean "{near[0]}"?' if near else ""
        return f'no row has the column "{column}" of where; found {quote(self.columns)}{advice}'

    def why_none(self) -> str:
        """Why no row was taken."""
        for column, wanted in self.where.items():
            if column not in self.columns:
                return self.missing(column)
            if not wanted & self.values[column].keys():
                common = self.values[column].most_common(MOST_SHOWN)
                listed = ", ".join(f"{shown(value)} ({count:,})" for value, count in common)
                asked = ", ".join(map(shown, sorted(wanted)))
                return f'has no row in which "{column}" is {asked}; it holds {listed}'
        return "has no row that fits all of where; leave one of its columns out"


def shown(value: str) -> str:
    """A value for a message."""
    return visible(value if len(value) <= 40 else f"{value[:37]}...") or "nothing"


def plain(value: Any) -> str:
    """A value as it is compared: 5, 5.0 and "5" are equal, and null is nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def deduplicated(rows: list[Row]) -> list[Row]:
    """The first of the rows with the same prompt and the same answer, in order."""
    seen: set[tuple[str, str]] = set()
    remaining = []
    for row in rows:
        content = row.key, answer_key(row)
        if content not in seen:
            seen.add(content)
            remaining.append(row)
    return remaining


def sample(rows: list[Row], count: int, seed: int) -> list[Row]:
    """So many of the rows, in order: those whose content has the smallest digests with this seed,
    so that fewer are among more, whatever else the file holds.
    """
    if count >= len(rows):
        return rows
    copies: Counter[tuple[str, str]] = Counter()
    digests = []
    for index, row in enumerate(rows):
        content = row.key, answer_key(row)
        copies[content] += 1
        text = json.dumps([seed, *content, copies[content]])
        digests.append((hashlib.sha256(text.encode()).digest(), index))
    chosen = sorted(index for _, index in sorted(digests)[:count])
    return [rows[index] for index in chosen]


def answer_key(row: Row) -> str:
    """What a row answers, in the form in which two rows are compared: white space around it does
    not count.
    """
    last = {name: value for name, value in row.messages[-1].items() if name != "role"}
    if last.keys() == {"content"}:
        return str(last["content"]).strip()
    return json.dumps(last, ensure_ascii=False, sort_keys=True, default=str)
