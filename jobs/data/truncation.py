"""Which texts of a conversation may be cut, and where."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from jobs.data.chat_template import ChatTokenizer
from jobs.data.neighbour_prompt import without_farthest
from jobs.data.readers import Row

LEAST_TURN = 16
"""An older exchange of which fewer tokens would be left is left out whole."""


def head_and_exchanges(row: Row) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """A row's context as what always stays in front, and the exchanges, each of which begins with a
    message of the user.
    """
    context = list(row.context)
    num_leading = next(
        (
            index
            for index, message in enumerate(context)
            if message["role"] not in ("system", "developer")
        ),
        len(context),
    )
    head = context[:num_leading]
    exchanges = []
    for message in context[num_leading:]:
        if not exchanges or (
            message["role"] == "user" and any(one["role"] == "user" for one in exchanges[-1])
        ):
            exchanges.append([])
        exchanges[-1].append(message)
    return head, exchanges


def least(row: Row) -> list[dict[str, Any]]:
    """The messages of a row with nothing but what must stay."""
    head, exchanges = head_and_exchanges(row)
    return [*head, *(emptied(message, row.instruction) for message in (exchanges or [[]])[-1])]


def first_with_room(count: int, spare: Callable[[int], int]) -> int | None:
    """The first of a conversation's exchanges that is cut rather than left out: beside the later
    ones `spare` gives it LEAST_TURN tokens or more, or the last one any. None where not even that
    one has room. The fewer exchanges stay the more has room, but for a token at their seams: twice
    as many are tried until they are too many, and then halved, since rendering each once takes
    minutes where there are thousands.
    """
    last, step = count - 1, 1
    while step < last and spare(last - step) >= LEAST_TURN:
        step *= 2
    earliest = max(0, last - step)
    first = bisect_left(range(last), True, earliest, key=lambda index: spare(index) >= LEAST_TURN)
    while 0 < first < last and spare(first - 1) >= LEAST_TURN:
        first -= 1
    return first if count and (first < last or spare(last) >= 0) else None


def fewer_neighbours(row: Row, room: int, template: ChatTokenizer) -> tuple[Row, str, list[int]]:
    """A row with as many of its neighbours as `room` tokens hold, the farthest left out first, and
    its prompt as text and ids: longer than `room` where the row without any is.
    """
    while True:
        text = template.render(row.as_shown.context, True, row.tools, row.thinking)
        ids = template.encode(text)
        if len(ids) <= room or not row.neighbours:
            return row, text, ids
        row = dataclasses.replace(row, neighbours=without_farthest(row.neighbours))


def is_free(message: dict[str, Any]) -> bool:
    """Whether a message's text may be cut: what a user, or a tool, has said."""
    return message["role"] not in ("system", "developer", "assistant")


def fixed(message: dict[str, Any], instruction: str) -> str:
    """The beginning of a message that always stays."""
    return instruction if instruction and message["content"].startswith(instruction) else ""


def emptied(message: dict[str, Any], instruction: str) -> dict[str, Any]:
    """A message without the text that may be cut."""
    return message | {"content": fixed(message, instruction)} if is_free(message) else message


def highest(lengths: Sequence[int], spare: int) -> int:
    """The most tokens that each of several texts may have so that they come to at most `spare`
    together.
    """
    left = spare
    for index, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - index)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


def middle_cut(text: str, spans: Sequence[tuple[int, int]], level: int) -> str:
    """A text of which at most `level` tokens are left, half of them at its beginning and half at
    its end.
    """
    if len(spans) <= level:
        return text
    first = level - level // 2
    start = text[: spans[first - 1][1]] if first else ""
    return start + (
        text[max(spans[len(spans) - level // 2][0], len(start)) :] if level // 2 else ""
    )
