"""A few training rows before each question: what the untouched base makes of the task without being
trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.messages import Message
from jobs.data.readers import Row
from jobs.data.tokenization import render_rows

ROOM_SHARE = 0.5
"""Share of what the base can read at once that the examples may take."""
LONGEST_ROOM = 4_096
"""Tokens of examples at most: they are read before every row."""
UNKNOWN_LENGTH = 2_048
"""What a base reads at once, where its configuration does not say."""


def with_examples(
    rows: list[Row], corpus: Corpus, template: ChatTokenizer, base: Path, count: int
) -> tuple[list[Row], int]:
    """The rows with up to `count` training rows as earlier turns before the question, the same ones
    for all so that they are computed once, and the most tokens that they take. 0 tokens where none
    can be shown.
    """
    if not all(map(can_follow_examples, rows)):
        return rows, 0
    room = min(int(ROOM_SHARE * longest_input(base)), LONGEST_ROOM)
    examples = examples_of(corpus, count)
    while examples:
        turns = tuple(turn for row in examples for turn in without_system(row.messages))
        shown = [put_before(row, turns) for row in rows]
        try:
            example_tokens = length(shown[0], template) - length(rows[0], template)
        except ValueError:  # a template that knows no earlier turns
            return rows, 0
        if example_tokens <= room:
            return shown, example_tokens
        examples = examples[:-1]
    return rows, 0


def examples_of(corpus: Corpus, count: int) -> list[Row]:
    """Training rows of different answers, as far as there are, by a hash of their prompt: not the
    first ones of a file, which are often alike. Short ones come first.
    """
    rows = [row for source in corpus.sources.values() for row in source if can_be_shown(row)]
    middle = sorted(len(row.key) + len(row.answer) for row in rows)[len(rows) // 2 :][:1]
    short = [row for row in rows if len(row.key) + len(row.answer) <= middle[0]]
    order = sorted(short, key=lambda row: (hashlib.sha256(row.key.encode()).digest(), row.key))
    by_answer: dict[str, Row] = {}
    for row in order:
        by_answer.setdefault(row.answer, row)
    chosen = list(by_answer.values())[:count]
    chosen_ids = {id(row) for row in chosen}
    return (chosen + [row for row in order if id(row) not in chosen_ids])[:count]


def can_be_shown(row: Row) -> bool:
    """Whether a training row can stand as an example: one question with its answer."""
    return len(without_system(row.messages)) == 2 and bool(row.answer) and not row.tools


def can_follow_examples(row: Row) -> bool:
    """Whether a row can be asked after examples: not a conversation of its own form, of which they
    would be no part.
    """
    return not row.thinking and not row.tools


def without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation without the message that it may begin with."""
    return messages[1:] if messages and messages[0]["role"] == "system" else messages


def put_before(row: Row, turns: tuple[Message, ...]) -> Row:
    """A row with earlier turns, behind its system message if it has one."""
    conversation = without_system(row.messages)
    system = row.messages[: len(row.messages) - len(conversation)]
    return dataclasses.replace(row, messages=(*system, *turns, *conversation))


def length(row: Row, template: ChatTokenizer) -> int:
    """Tokens of a row's prompt."""
    (text,) = render_rows([row], template, "test")
    return len(template.encode(text.prompt))


def longest_input(base: Path) -> int:
    """How many tokens a base model reads at once, by its configuration."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        return int(config.get("max_position_embeddings") or UNKNOWN_LENGTH)
    except (OSError, ValueError, TypeError, AttributeError):
        return UNKNOWN_LENGTH
