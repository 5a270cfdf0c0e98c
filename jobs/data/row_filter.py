"""Rows by the values of their columns (`where` of a source), and what is said where none fits."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs.data.messages import quote, visible
from jobs.source_rows import WhereValue

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
