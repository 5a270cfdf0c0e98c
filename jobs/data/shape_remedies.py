"""What is said of a record that no shape fits: what is missing, and the setting that reads it."""

from __future__ import annotations

from collections.abc import Collection

from jobs.data.column_names import (
    ANSWERS,
    COLUMNS,
    LABELS,
    PROMPTS,
    candidates,
)
from jobs.data.conversation_forms import CONVERSATIONS
from jobs.data.messages import describe, quote
from jobs.files.json_types import JsonObject

NAME_THEM = "data.columns.prompt={prompt} data.columns.completion={completion}"


def reason(record: JsonObject, all_names: Collection[str]) -> str:
    """Why a record has no shape, with the remedy."""
    present = {name.strip().lower(): name for name, value in record.items() if value is not None}
    asked, answered = candidates(present)
    listed = quote(all_names)
    if (inside := rows_inside(record)) is not None and not (asked and answered):
        return f"needs {COLUMNS}; found {listed}; {inside}"
    remedy = NAME_THEM.format(
        prompt=asked[0] if asked else "COLUMN", completion=answered[0] if answered else "COLUMN"
    )
    if {"chosen", "rejected"} <= present.keys():
        return (
            'has "chosen" and "rejected", and not one prompt beside them; say which column it is: '
            f"data.columns.prompt=COLUMN data.columns.completion={present['chosen']}"
        )
    for role, several in (("prompt", asked), ("answer", answered)):
        if len(several) > 1 and asked and answered:
            both = "; or join them: " + NAME_THEM.format(
                prompt=f"'{joined(several)}'", completion=answered[0]
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
    for several in (asked, answered):
        if asked and answered and isinstance(record[several[0]], list | dict):
            column = several[0]
            return (
                f'"{column}" must be text, got {describe(record[column])}; a template can make one '
                f"of it: data.columns.{'prompt' if several is asked else 'completion'}="
                f"'{{{{ {column} | tojson }}}}'"
            )
    return lacking(record, asked, answered, listed, remedy)


def joined(columns: Collection[str]) -> str:
    """A template of several columns, one after the other."""
    named = [name if name.isidentifier() else f'row["{name}"]' for name in columns]
    return " ".join(f"{{{{ {name} }}}}" for name in named)


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
        joined = "a template joins several: data.columns.prompt='{{ A }} {{ B }}'"
        return f"has no prompt; found {listed}; say which column it is: {remedy} ({joined})"
    return f"needs {COLUMNS}; found {listed}; or say which columns hold them: {remedy}"


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
