"""Rows: what a record of a data file means, and what is wrong with it when it means nothing.

The forms of files are left to records.py, the columns that hold prompt and answer to shapes.py;
which rows train and which are held out is decided in corpus.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.data import synthetic_rows
from jobs.data.bad_rows import BadRows, UnreadableLine
from jobs.data.column_mapping import ROW, check_names, mapped
from jobs.data.column_names import COLUMNS, MEANINGFUL, PAIR
from jobs.data.conversation_forms import without_trailing
from jobs.data.labels import LabelNames
from jobs.data.messages import (
    CLOSED_THOUGHT,
    Malformed,
    check_text,
    describe,
    read_message,
    read_tools,
    thinks,
)
from jobs.data.neighbour_prompt import Neighbour, put_before
from jobs.data.prompt_keys import context_key, normalise
from jobs.data.records import OnlyRecord, check_file, open_records
from jobs.data.row_filter import Filter
from jobs.data.shape_remedies import check_prompt, is_table_by_columns, whole_table
from jobs.data.shapes import Shape, pair_shape, recognise
from jobs.data.tables import Records, ShortRow, headless_note
from jobs.source_rows import Columns, WhereValue


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
    """The model, or the rule, that has written the row; empty for a real one."""
    neighbours: tuple[Neighbour, ...] = ()
    """Training rows that are shown before what is asked, in this order; `messages` lack them."""

    @property
    def synthetic(self) -> bool:
        """Whether a teacher or a rule wrote it, as its columns say: no held-out row is."""
        return bool(self.teacher)

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


@dataclass(frozen=True)
class Reading:
    """How a file is read, where its columns do not say it all."""

    columns: Columns = field(default_factory=Columns)
    label_names: tuple[str, ...] = ()
    bad_rows: int = 0
    """How many rows may be skipped, since nothing can be made of them."""
    where: Mapping[str, WhereValue | list[WhereValue]] = field(default_factory=dict)
    """Which rows are taken, by the values of their columns."""


@dataclass
class Table:
    """The rows of one file, in order."""

    rows: list[Row]
    shape: str = ""
    """Which of the formats they have."""
    unused: Counter[str] = field(default_factory=Counter)
    """Columns that nothing is made of, with the number of rows in which they hold something."""
    told: list[str] = field(default_factory=list)
    """What was recognised, in words."""
    chat: bool = False
    """Whether rows hold messages, before which no instruction is put."""
    labels: Counter[str] = field(default_factory=Counter)
    """How many answers got a name ("named"), how many are whole numbers without ("bare"), and how
    many of those are written with a fraction, as 1.0 ("fractional").
    """
    num_open: int = 0
    """Conversations of which what follows the last answer was left out."""
    num_left_out: int = 0
    """Rows that `where` leaves out."""
    skipped: list[str] = field(default_factory=list)
    """What is wrong with each row that was skipped."""

    def joined(self, after: Table) -> Table:
        """This table and one of the next file, as one."""
        return Table(
            self.rows + after.rows,
            after.shape,
            self.unused + after.unused,
            list(dict.fromkeys([*self.told, *after.told])),
            self.chat or after.chat,
            self.labels + after.labels,
            self.num_open + after.num_open,
            self.num_left_out + after.num_left_out,
            self.skipped + after.skipped,
        )


def read_rows(path: str | Path, instruction: str = "") -> list[Row]:
    """All rows of a file, in order; see `read_table`."""
    return read_table(path, instruction).rows


def read_table(
    path: str | Path,
    instruction: str = "",
    slices: Sequence[str] = (),
    reading: Reading | None = None,
) -> Table:
    """All rows of a file, in order, and what of it is not used.

    A row is made as `reading` says, else as its columns are recognised (shapes.py): a prompt and an
    answer become a user message (after `instruction` and a line break, when there is one) and an
    assistant message, a conversation stays one; a file has one shape. `slices` are further columns
    that scores are told by. Raises ValueError with the file, the line and the remedy at the first
    thing that is wrong.
    """
    path = Path(path).expanduser()
    reading = reading or Reading()
    try:
        check_file(path)
    except OSError as error:  # a folder on the way that may not be entered, a name that is too long
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    table = Table([])
    first = ""
    mapping = mapped(reading.columns)
    wanted = (SOURCE, *synthetic_rows.COLUMNS, *slices, *reading.where)
    records = open_records(path)
    if records.names is not None:
        try:
            check_names(reading.columns, records.names)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    taken = Filter(reading.where)
    names = LabelNames(reading.label_names)
    columns = columns_to_read(records, mapping, wanted)
    bad = BadRows(reading.bad_rows, table.skipped)
    for location, record in bad.reading(records.read(columns)):
        if isinstance(record, UnreadableLine):
            bad.skip(record.problem)
            continue
        try:
            if not isinstance(record, dict):
                remedy = "; write one object per line" if isinstance(record, list) else ""
                raise Malformed(
                    f"a row must be an object with {COLUMNS}, got {describe(record)}{remedy}"
                )
            if reading.where and not taken.takes(record):
                table.num_left_out += 1
                continue
            shape = mapping or find_shape(record, records.names)
            table.shape = table.shape or shape.name
            first = first or location
            if shape.name != table.shape:
                raise Malformed(
                    f"a mix of formats: {first} holds {table.shape}, this one {shape.name}; put "
                    "them into two files"
                )
            told = shape.told
            if shape.answer in records.label_names:
                told = f"{told}, labels by the names in the file"
            if told not in table.told:
                table.told.append(told)
            row = read_row(record, shape, f"{path}, {location}", instruction, names, table)
            if len(record) > len(shape.columns):
                row = with_columns(row, record, slices, shape)
                table.unused.update(
                    name
                    for name, value in record.items()
                    if name not in shape.columns and name not in wanted and holds(value)
                )
            table.rows.append(row)
        except Malformed as error:
            short = "; fewer fields than columns" if isinstance(record, ShortRow) else ""
            headless = "" if table.shape or bad.count else headless_note(records)
            bad.skip(f"{path}, {location}: {error}{short}{headless}")
    bad.refuse(len(table.rows))
    if not table.rows and table.skipped:
        raise ValueError(f"{path} has no rows that can be used: {table.skipped[0]}")
    if not table.rows:
        raise ValueError(
            f"{path} {taken.why_none()}"
            if table.num_left_out
            else f"{path} is empty, it has no rows; a row needs {COLUMNS}"
        )
    if reading.where:
        taken.check_columns(str(path))
    table.labels = names.counts
    if records.unused is not None and not (mapping is not None and ROW in mapping.columns):
        table.unused += records.unused(columns or ())
    if mapping is not None and ROW in mapping.columns:
        table.unused.clear()
    return table


def columns_to_read(
    records: Records, mapping: Shape | None, wanted: Collection[str]
) -> list[str] | None:
    """Which columns of a binary file are read: those that mean something, or that are asked for.
    None for all.
    """
    if records.names is None or (mapping is not None and ROW in mapping.columns):
        return None
    if mapping is not None:
        return [name for name in records.names if name in mapping.columns or name in wanted]
    return [name for name in records.names if name.strip().lower() in MEANINGFUL or name in wanted]


def find_shape(record: dict[str, Any], names: Collection[str] | None) -> Shape:
    """The shape of a record; that of nearly all rows there are is seen at once. Raises Malformed
    for a file that is one object with a list of values for each column.
    """
    if isinstance(record, OnlyRecord) and is_table_by_columns(record):
        raise Malformed(whole_table(record))
    if record.keys() == PAIR_COLUMNS and isinstance(record["prompt"], str):
        return pair_shape()
    return recognise(record, names or ())


def read_row(
    record: dict[str, Any],
    shape: Shape,
    where: str,
    instruction: str,
    names: LabelNames,
    table: Table,
) -> Row:
    """The row that a record of this shape is; what it is made of is counted in `table`."""
    made = shape.make(record)
    if "completion" not in made:
        table.chat = True
        if shape.open_end:
            shorter = without_trailing(made["messages"])
            table.num_open += len(shorter) < len(made["messages"])
            made["messages"] = shorter
        return read_messages(made, where)
    answer = names.answer(made["completion"], shape)
    if answer is not made["completion"]:
        made = {**made, "completion": answer}
    return read_pair(made, where, instruction, shape)


def holds(value: Any) -> bool:
    """Whether a column holds something; an empty field of a table in text is nothing."""
    return value is not None and value != ""


SOURCE = "source"
"""The column that says where a row comes from, for scores by source; it may be missing."""


def with_columns(row: Row, record: dict[str, Any], slices: Sequence[str], shape: Shape) -> Row:
    """A row with what its record holds in the columns that scores are told by."""
    source = None if SOURCE in shape.columns else record.get(SOURCE)
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


PAIR_COLUMNS = {"prompt", "completion"}


def read_pair(record: dict[str, Any], location: str, instruction: str, shape: Shape) -> Row:
    """A row with `prompt` and `completion`."""
    if shape.name == PAIR:
        check_prompt(record["prompt"])
    prompt = check_text(record["prompt"], '"prompt"')
    answer = check_answer(record["completion"], f'"{shape.answer or "completion"}"')
    if not prompt.strip():
        is_plain = shape.name == PAIR
        raise Malformed('"prompt" is empty' if is_plain else f"has no prompt, by {shape.told}")
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


def check_answer(value: Any, name: str) -> str:
    """`value` if it is text with something in it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Malformed(f"has no answer: {name} is {'null' if value is None else 'empty'}")
    return check_text(value, name)
