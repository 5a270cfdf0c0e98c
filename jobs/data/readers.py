"""Rows: what a record of a data file means, and what is wrong with it when it means nothing.

Owns what makes a `LossTokens`, and when two prompts are equal. The forms of files are left to
records.py; which rows train and which are held out is decided in data.py.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jobs.data import synthetic_rows
from jobs.data.foreign_formats import remedy_for
from jobs.data.messages import (
    CLOSED_THOUGHT,
    Malformed,
    check_text,
    describe,
    quote,
    read_message,
    read_tools,
    thinks,
)
from jobs.data.neighbour_prompt import Neighbour, put_before
from jobs.data.records import COLUMNS, READ, SHAPES, check_file, read_records


@dataclass(frozen=True)
class Row:
    """One exchange: messages with `role` and `content`, of which the last is the assistant's and is
    the answer.
    """

    messages: tuple[dict[str, Any], ...]
    key: str
    """The prompt in the form in which two prompts are compared: all that the model sees but the
    instruction, which is every row's; case folded, white space collapsed.
    """
    place: str
    """File and line, or for parquet file and row, counted from 1; for messages."""
    tools: tuple[dict[str, Any], ...] = ()
    """The functions that the conversation may call, which templates render."""
    instruction: str = ""
    """What the first message begins with before the prompt itself, line break included; it is kept
    where a prompt is cut.
    """
    thinking: bool = False
    """Whether the model may reason before it answers: so it is for all rows when one of them shows
    its reasoning.
    """
    source: str = ""
    """Where it comes from: what its own column `source` says, else the training source that it
    stood in.
    """
    columns: tuple[tuple[str, str], ...] = ()
    """Name and content of the columns that scores are told by; see data.slices."""
    teacher: str = ""
    """The model that has written the row; empty for a real one."""
    neighbours: tuple[Neighbour, ...] = ()
    """Training rows that are shown before what is asked, in this order; `messages` lack them."""

    @property
    def as_shown(self) -> Row:
        """The row as the model sees it: with its neighbours among its messages."""
        if not self.neighbours:
            return self
        return replace(self, messages=put_before(self.messages, self.instruction, self.neighbours))

    @property
    def context(self) -> tuple[dict[str, Any], ...]:
        """Everything before the answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the model should say, without the template's marks around it."""
        return self.messages[-1]["content"]


@dataclass
class Table:
    """The rows of one file, in order."""

    rows: list[Row]
    shape: str = ""
    """Which of the two formats they have, as the names of its columns."""
    unused: Counter[str] = field(default_factory=Counter)
    """Columns that nothing is made of, with the number of rows in which they hold something."""


def read_rows(path: str | Path, instruction: str = "") -> list[Row]:
    """All rows of a file, in order; see `read_table`."""
    return read_table(path, instruction).rows


def read_table(path: str | Path, instruction: str = "", slices: Sequence[str] = ()) -> Table:
    """All rows of a file, in order, and what of it is not used.

    A row is either `prompt` and `completion`, which become a user message (after `instruction` and
    a line break, when there is one) and an assistant message, or `messages` in the chat format; a
    file holds one of the two. `slices` are further columns that scores are told by. Raises
    ValueError with the file, the line and the remedy at the first
    thing that is wrong.
    """
    path = Path(path).expanduser()
    try:
        check_file(path)
    except OSError as error:  # a folder on the way that may not be entered, a name that is too long
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    table = Table([])
    first = ""
    wanted = (SOURCE, *synthetic_rows.COLUMNS, *slices)
    for location, record in read_records(path, table.unused, keep=wanted):
        try:
            shape = find_shape(record, path)
            table.shape = table.shape or shape
            first = first or location
            if shape != table.shape:
                raise Malformed(
                    f"a mix of formats: {first} holds {table.shape}, this one {shape}; put them "
                    "into two files"
                )
            where = f"{path}, {location}"
            row = (
                read_messages(record, where)
                if shape == CHAT
                else read_pair(record, where, instruction)
            )
            if len(record) > NUM_COLUMNS[shape]:
                row = with_columns(row, record, slices)
                table.unused.update(
                    name
                    for name, value in record.items()
                    if name not in (*READ, *wanted) and value is not None
                )
            table.rows.append(row)
        except Malformed as error:
            raise ValueError(f"{path}, {location}: {error}") from None
    if not table.rows:
        raise ValueError(f"{path} is empty, it has no rows; a row needs {COLUMNS}")
    return table


SOURCE = "source"
"""The column that says where a row comes from, for scores by source; it may be missing."""


def with_columns(row: Row, record: dict[str, Any], slices: Sequence[str]) -> Row:
    """A row with what its record holds in the columns that scores are told by."""
    source = record.get(SOURCE)
    teacher = synthetic_rows.teacher_of(record)
    columns = tuple((name, column_text(record[name])) for name in slices if name in record)
    if not columns and source is None and not teacher:
        return row
    named = "" if source is None else column_text(source)
    return replace(row, source=named, columns=columns, teacher=teacher)


def column_text(value: Any) -> str:
    """What a column holds, as the name of a slice; a text as it stands, anything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


CHAT = '"messages"'
PAIR = '"prompt" and "completion"'
PAIR_COLUMNS = {"prompt", "completion"}
NUM_COLUMNS = {CHAT: 1, PAIR: len(PAIR_COLUMNS)}


def find_shape(record: Any, path: Path) -> str:
    """Which of the two formats a record has, as the names of its columns. A column that is null is
    none, where the others are a row.
    """
    if not isinstance(record, dict):
        remedy = "; write one object per line" if isinstance(record, list) else ""
        raise Malformed(f"a row must be an object with {COLUMNS}, got {describe(record)}{remedy}")
    if record.keys() == PAIR_COLUMNS and isinstance(record["prompt"], str):
        return PAIR  # nearly all rows there are
    shapes = [name for name in SHAPES if record.get(name) is not None]
    if "messages" in shapes:
        if len(shapes) > 1:
            raise Malformed(
                f'has "messages" and {quote(shapes[:-1])}; leave one out, or set it to null'
            )
        first = (
            record["messages"][0]
            if isinstance(record["messages"], list) and record["messages"]
            else None
        )
        if isinstance(first, dict) and "role" not in first and (remedy := remedy_for(path, record)):
            raise Malformed(f'message 1 has no "role"; found {quote(first)}; {remedy}')
        return CHAT
    if "messages" in record and not shapes:
        return CHAT  # and null, which read_messages says
    for column in ("prompt", "completion"):
        if column not in record:
            remedy = remedy_for(path, record) or rows_inside(record)
            missing = (
                'has no answer: "completion" is missing'
                if column == "completion"
                else f"needs {COLUMNS}"
            )
            raise Malformed(f"{missing}; found {quote(record)}" + (f"; {remedy}" if remedy else ""))
    if isinstance(record["prompt"], list) and (remedy := remedy_for(path, record)):
        raise Malformed(f'"prompt" must be text, got a list; {remedy}')
    return PAIR


def rows_inside(record: dict[str, Any]) -> str | None:
    """What to do with an object that holds the rows; None for any other."""
    names = [
        name
        for name, value in record.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if not names:
        return None
    return f'its rows may be in "{names[0]}": write those as one array, or one object per line'


def read_pair(record: dict[str, Any], location: str, instruction: str) -> Row:
    """A row with `prompt` and `completion`."""
    prompt = check_text(record["prompt"], '"prompt"')
    answer = check_answer(record["completion"], '"completion"')
    if not prompt.strip():
        raise Malformed('"prompt" is empty')
    tools = read_tools(record["tools"]) if "tools" in record else ()
    return Row(
        messages=(*prompt_messages(prompt, instruction), {"role": "assistant", "content": answer}),
        key=context_key(({"role": "user", "content": prompt},), tools)
        if tools
        else normalise(prompt),
        place=location,
        tools=tools,
        instruction=opening(instruction),
        thinking=CLOSED_THOUGHT in answer,
    )


def prompt_messages(prompt: str, instruction: str) -> tuple[dict[str, Any], ...]:
    """A bare prompt as the conversation that the model is given."""
    return ({"role": "user", "content": opening(instruction) + prompt},)


def opening(instruction: str) -> str:
    """What stands before a prompt."""
    return f"{instruction}\n" if instruction else ""


def read_messages(record: dict[str, Any], location: str) -> Row:
    """A row with `messages`."""
    messages = record["messages"]
    if not isinstance(messages, list):
        raise Malformed(f'"messages" must be a list, got {describe(messages)}')
    if not messages:
        raise Malformed('"messages" is empty; it needs a user message and the assistant\'s answer')
    checked = tuple(
        read_message(message, position) for position, message in enumerate(messages, start=1)
    )
    if checked[-1]["role"] != "assistant":
        raise Malformed(
            f'has no answer: the last message is from "{checked[-1]["role"]}", it must be from '
            '"assistant"'
        )
    if "tool_calls" not in checked[-1]:
        check_answer(checked[-1]["content"], "the last message")
    if len(checked) == 1:
        raise Malformed("has no prompt: a message from the user must come before the answer")
    # A system message alone is the same in many rows, as an instruction is: something must be asked
    # beside it.
    asked = [message["content"] for message in checked[:-1] if message["role"] != "system"]
    if not any(text.strip() for text in asked):
        raise Malformed(
            "has no prompt: all that comes before the answer is empty or from the system; add a "
            "message from the user"
        )
    tools = read_tools(record.get("tools"))
    return Row(
        messages=checked,
        key=context_key(checked[:-1], tools),
        place=location,
        tools=tools,
        thinking=thinks(checked[-1]),
    )


def context_key(messages: Sequence[dict[str, Any]], tools: Any = None) -> str:
    """All that the model sees before an answer, in the form in which two prompts are compared: who
    says what, which functions there are.

    A single message from the user is the same prompt as its bare text.
    """
    if (
        len(messages) == 1
        and not tools
        and messages[0].keys() == {"role", "content"}
        and messages[0]["role"] == "user"
    ):
        return normalise(messages[0]["content"])
    turns = [turn_key(message) for message in messages]
    return json.dumps(
        [*turns, normalised(tools)] if tools else turns, ensure_ascii=False, sort_keys=True
    )


def turn_key(message: dict[str, Any]) -> Any:
    """What one message says, in that form; calls of functions and other fields are part of it."""
    fields = {
        name: value for name, value in message.items() if name not in ("role", "content") and value
    }
    text = (
        normalise_again(message["content"])
        if message["role"] == "system"
        else normalise(message.get("content") or "")
    )
    return [message["role"], text, normalised(fields)] if fields else [message["role"], text]


def normalised(value: Any) -> Any:
    """A nested value with each text in it normalised, and without what is null: Parquet fills up
    with nulls.
    """
    if isinstance(value, dict):
        return {name: normalised(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [normalised(inner) for inner in value]
    return normalise(value) if isinstance(value, str) else value


def check_answer(value: Any, name: str) -> str:
    """`value` if it is text with something in it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Malformed(f"has no answer: {name} is {'null' if value is None else 'empty'}")
    return check_text(value, name)


def normalise(text: str) -> str:
    """Case folded, with each run of white space as one space. Punctuation stays: "2 + 2" and "2 -
    2" are two prompts.

    Characters that only look or weigh differently are one (Unicode's NFKC), and those that nobody
    sees are none.
    """
    if not text.isascii():
        text = "".join(
            letter
            for letter in unicodedata.normalize("NFKC", text)
            if unicodedata.category(letter) != "Cf"
        )
    return " ".join(text.casefold().split())


@lru_cache(maxsize=64)
def normalise_again(text: str) -> str:
    """`normalise` of a text that many rows have in common."""
    return normalise(text)
