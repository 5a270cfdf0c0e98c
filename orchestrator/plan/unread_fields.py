"""Fields of messages that the base model's template does not write: they are in the data, and
nobody sees them.
"""

from __future__ import annotations

from typing import Any

from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.readers import Row

SEEN = frozenset({"role", "content"})
OWNED = ("tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
"""Fields whose meaning is known, and that are looked at where rows are rendered."""


def notes(corpus: Corpus, template: ChatTokenizer | None) -> list[str]:
    """Which fields of messages change nothing, with the number of messages that hold one. Nothing
    is said before the template is here.
    """
    if template is None:
        return []
    lines = []
    for name, rows in {**corpus.sources, "valid": corpus.valid, "test": corpus.test}.items():
        message_fields = fields_of(rows)
        idle = {
            key: count
            for (role, key), (count, row) in sorted(message_fields.items())
            if not is_written(row, role, key, template)
        }
        listed = ", ".join(f'"{key}" ({count:,})' for key, count in idle.items())
        lines += (
            [f"{name}: fields of messages not used, with the number of messages: {listed}"]
            if idle
            else []
        )
    return lines


def fields_of(rows: list[Row]) -> dict[tuple[str, str], tuple[int, Row]]:
    """(number of messages, a row) by the role and the name of a field."""
    by_field: dict[tuple[str, str], tuple[int, Row]] = {}
    for row in rows:
        for message in row.messages:
            if message.keys() != SEEN:
                for key in message.keys() - SEEN - set(OWNED):
                    count, first = by_field.get((message["role"], key), (0, row))
                    by_field[message["role"], key] = count + 1, first
    return by_field


def is_written(row: Row, role: str, key: str, template: ChatTokenizer) -> bool:
    """Whether a row's text changes when a field is taken out of its messages."""
    bare: list[dict[str, Any]] = [
        without(message, key) if message["role"] == role else message for message in row.messages
    ]
    try:
        return template.render(row.messages, add_generation_prompt=False) != template.render(
            bare, add_generation_prompt=False
        )
    except ValueError:
        # a template that refuses the row, or cannot do without the field, says so where rows are
        # rendered
        return True


def without(message: dict[str, Any], key: str) -> dict[str, Any]:
    """A message without one of its fields."""
    return {name: value for name, value in message.items() if name != key}
