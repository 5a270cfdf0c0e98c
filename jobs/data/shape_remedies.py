"""What is said of a record that no shape fits: what is missing, and the setting that reads it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence

from jobs.data.column_names import (
    ANSWERS,
    COLUMNS,
    LABELS,
    MEANINGFUL,
    PROMPTS,
    candidates,
)
from jobs.data.conversation_forms import CONVERSATIONS
from jobs.data.messages import Malformed, describe, one_text, quote, reference
from jobs.files.json_types import Json, JsonObject

NAME_THEM = "data.columns.prompt={prompt} data.columns.completion={completion}"
NO_ANSWER = r"has no answer(: \"completion\" is missing)?; found|completion: there is no column"
"""How it is said that a file has no column of answers."""
NOT_PLAIN = re.compile(r"[^\w@%+=:,./-]")
"""What a shell does not take as it stands, in the name of a column."""
MOST_ANSWERS = 20
"""Lists of more values than this are columns of a table, not several answers."""


def reason(record: JsonObject, all_names: Collection[str]) -> str:
    """Why a record has no shape, with the remedy."""
    present = {name.strip().lower(): name for name, value in record.items() if value is not None}
    asked, answered = candidates(present)
    listed = quote(all_names)
    if is_whole_table(record):
        return whole_table(all_names)
    if (inside := rows_inside(record)) is not None and not (asked and answered):
        return f"needs {COLUMNS}; found {listed}; {inside}"
    texts = other_texts(record)
    prompt, completion = asked[:1], answered[:1]
    if not asked and not answered and len(texts) == 2:
        prompt, completion = texts[:1], texts[1:]
    elif asked and not answered:
        completion = only_one([name for name in others(record) if name not in asked])
    elif answered and not asked:
        prompt = only_one(texts)
    remedy = NAME_THEM.format(
        prompt=quoted("".join(prompt) or "COLUMN"),
        completion=quoted("".join(completion) or "COLUMN"),
    )
    if {"chosen", "rejected"} <= present.keys():
        return (
            'has "chosen" and "rejected", and not one prompt beside them; say which column it is: '
            f"data.columns.prompt=COLUMN data.columns.completion={quoted(present['chosen'])}"
        )
    for role, several in (("prompt", asked), ("answer", answered)):
        if len(several) > 1 and asked and answered:
            both = "; or join them: " + NAME_THEM.format(
                prompt=quoted(joined(several)), completion=quoted(answered[0])
            )
            return (
                f"{quote(several)} can each be the {role}; say which: {remedy}"
                f"{both if role == 'prompt' else ''}"
            )
    conversations = [
        present[name]
        for name in CONVERSATIONS
        if name in present and isinstance(record[present[name]], list)
    ]
    if len(conversations) > 1:
        return (
            f"{quote(conversations)} can each be the conversation; say which: "
            f"data.columns.messages={conversations[0]}"
        )
    null = [name for name in record if name.lower() in CONVERSATIONS and record[name] is None]
    if null and not asked and not answered:
        return f'"{null[0]}" must be a list, got null'
    if conversations:
        return (
            f'"{conversations[0]}" holds no messages with role and content, or with from and '
            f"value; say which columns to read: {remedy}"
        )
    if asked and answered:
        for column in (asked[0], answered[0]):
            if isinstance(record[column], list | dict):
                values = [written(name, record[name]) for name in (asked[0], answered[0])]
                return no_text_as(column, record[column], *values)
    return lacking(record, asked, answered, listed, remedy)


def others(record: JsonObject) -> list[str]:
    """Columns whose names say nothing, which can be prompt or answer: those with one value."""
    return [
        name
        for name, value in record.items()
        if value is not None
        and not isinstance(value, list | dict)
        and name.strip().lower() not in MEANINGFUL - {*CONVERSATIONS}
    ]


def other_texts(record: JsonObject) -> list[str]:
    """Those of them that hold more than a number, which are no row's number."""
    return [name for name in others(record) if not is_number(record[name])]


def is_number(value: Json) -> bool:
    """Whether a value is a number, as such or as a text of a table."""
    try:
        float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return True


def only_one(columns: list[str]) -> list[str]:
    """The column where there is no other."""
    return columns if len(columns) == 1 else []


def joined(columns: Sequence[str]) -> str:
    """What reads several columns as one text, those that are empty left out: the name of a single
    one, else a template.
    """
    if len(columns) == 1:
        return columns[0]
    named = ", ".join(f'{reference(column)} | default("")' for column in columns)
    return f'{{{{ [{named}] | select | join("\\n\\n") }}}}'


def written(column: str, value: Json) -> str:
    """What reads a column: its name, or the template that makes a text of its value."""
    return one_text(column, value) if isinstance(value, list | dict) else column


def no_text(answer: str, value: Json, prompts: Sequence[str]) -> str:
    """Why an answer that is a list or an object is refused, with the settings that read it."""
    return no_text_as(answer, value, joined(prompts), one_text(answer, value))


def check_prompt(value: Json) -> None:
    """Raise Malformed for a prompt of the project's own format that is a list or an object."""
    if isinstance(value, list | dict):
        raise Malformed(no_text_as("prompt", value, written("prompt", value), "completion"))


def no_text_as(column: str, value: Json, prompt: str, completion: str) -> str:
    """Why a column is refused, with the two settings that read prompt and answer."""
    remedy = NAME_THEM.format(prompt=quoted(prompt), completion=quoted(completion))
    return (
        f'"{column}" must be text, got {describe(value)}; a template can make one of it: {remedy}'
    )


def quoted(setting: str) -> str:
    """The value of a setting as a shell takes it."""
    return shlex.quote(setting)


def is_whole_table(record: JsonObject) -> bool:
    """Whether an object is a whole table, as pandas writes one: its columns, or its rows by number,
    with an object or a list in each.
    """
    values = list(record.values())
    if len(values) < 2 or not values[0]:
        return False
    if all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        return all(map(str.isdigit, record)) or all(map(str.isdigit, values[0]))
    named = {name.strip().lower() for name in record}
    return (
        bool(named & {*PROMPTS} and named & {*ANSWERS, *LABELS})
        and all(isinstance(value, list) and len(value) == len(values[0]) for value in values)
        and len(values[0]) > MOST_ANSWERS
    )


def is_table_by_columns(record: JsonObject) -> bool:
    """Whether an object has a list of texts and numbers for each of several columns, all lists of
    one length. One row can look so, too: this is asked of an object that is a file by itself.
    """
    columns = list(record.values())
    if len(columns) < 2 or not all(isinstance(values, list) for values in columns):
        return False
    if len({len(values) for values in columns}) > 1 or len(columns[0]) < 2:
        return False
    return not any(isinstance(value, dict) for values in columns for value in values)


def whole_table(names: Collection[str]) -> str:
    """What is said of an object that is a whole table."""
    return (
        f"is one object that holds a whole table; found {quote(names)}; write one object for each "
        'row, as pandas does with to_json(FILE, orient="records", lines=True)'
    )


def lacking(
    record: JsonObject, asked: list[str], answered: list[str], listed: str, remedy: str
) -> str:
    """That a prompt or an answer is missing, or both."""
    if asked and not answered:
        empty = [name for name in record if name.strip().lower() in (*ANSWERS, *LABELS)]
        if empty:
            return f'has no answer: "{empty[0]}" is null'
        if asked == ["prompt"]:
            return f'has no answer: "completion" is missing; found {listed}; or say which: {remedy}'
        return f"has no answer; found {listed}; say which column it is: {remedy}"
    if answered and not asked:
        empty = [name for name in record if name.strip().lower() in PROMPTS]
        if empty:
            return f'has no prompt: "{empty[0]}" is null'
        said = f"has no prompt; found {listed}; say which column it is: {remedy}"
        several = other_texts(record)
        if len(several) == 1:
            return said
        shown = " ".join(f"{{{{ {name} }}}}" for name in map(reference, several[:2]))
        template = quoted(shown or "{{ A }} {{ B }}")
        return f"{said} (a template joins several: data.columns.prompt={template})"
    example = example_in_quotes(record)
    return f"needs {COLUMNS}; found {listed}; or say which columns hold them: {remedy}{example}"


def example_in_quotes(record: JsonObject) -> str:
    """How a column is named whose name a shell takes apart, by the one with the longest text;
    nothing where all names can stand as they are.
    """
    apart = {name: value for name, value in record.items() if NOT_PLAIN.search(name)}
    if not apart:
        return ""
    longest = max(apart, key=lambda name: len(str(apart[name])))
    return f" (in quotes where a name has a space: data.columns.prompt={quoted(longest)})"


def rows_inside(record: JsonObject) -> str | None:
    """What to do with an object that holds the rows; None for any other."""
    names = [
        name
        for name, value in record.items()
        if isinstance(value, list)
        and value
        and isinstance(value[0], dict)
        and name.lower() not in CONVERSATIONS
    ]
    if not names:
        return None
    return f'its rows may be in "{names[0]}": write those as one array, or one object per line'
