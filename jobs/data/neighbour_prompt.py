"""How neighbours, the most similar training rows, stand in a prompt: a line each, between the
instruction and the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORM = 1
"""Goes up when the same neighbours give another text: a version says by which it was trained."""


@dataclass(frozen=True)
class Neighbour:
    """A training row that is shown before a question."""

    question: str
    answer: str
    rank: int
    """0 for the one that is most like the question."""


def last_question(messages: Sequence[dict[str, Any]]) -> int | None:
    """Where the user's last message stands, None where there is none."""
    places = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return places[-1] if places else None


def question_of(messages: Sequence[dict[str, Any]], instruction: str) -> str:
    """What the user asks at last, without the instruction before it; empty where nobody asks."""
    place = last_question(messages)
    if place is None:
        return ""
    return str(messages[place]["content"]).removeprefix(instruction)


def put_before(
    messages: Sequence[dict[str, Any]], instruction: str, neighbours: Sequence[Neighbour]
) -> tuple[dict[str, Any], ...]:
    """The messages with the neighbours, in this order, before what the user asks at last."""
    place = last_question(messages)
    if place is None or not neighbours:
        return tuple(messages)
    message = messages[place]
    opening = instruction if str(message["content"]).startswith(instruction) else ""
    question = message["content"][len(opening) :]
    asked = message | {"content": f"{opening}{block(neighbours)}{question}"}
    return (*messages[:place], asked, *messages[place + 1 :])


def block(neighbours: Sequence[Neighbour]) -> str:
    """A line for each neighbour, its question on one line whatever it was, and an empty one."""
    lines = [f"{' '.join(one.question.split())} -> {one.answer.strip()}\n" for one in neighbours]
    return "".join(lines) + "\n"


def without_farthest(neighbours: Sequence[Neighbour]) -> tuple[Neighbour, ...]:
    """All but the one that is least like the question."""
    farthest = max(one.rank for one in neighbours)
    return tuple(one for one in neighbours if one.rank != farthest)
