"""Which rows of a source are taken: each once, so many of them.

Both depend on the rows alone, never on their order in the file or on the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from jobs.data.readers import Row


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
