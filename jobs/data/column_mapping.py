"""Rows made by `data.columns`: from named columns, or by Jinja templates over all of them.

Owns what such a template may do: it runs in Jinja's sandbox, and a column that is not there is an
error. Columns that are recognised by their names are shapes.py's.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from jobs.data.conversation_forms import CONVERSATIONS
from jobs.data.messages import Malformed, as_text, quote
from jobs.data.shapes import Shape, chat_shape, filled, tools_of, with_context
from jobs.files.json_types import Json, JsonObject
from jobs.foreign_code import FOREIGN_CODE_ERRORS
from jobs.source_rows import Columns, is_template

ROW = "row"
"""In a template, the whole record: row["A column"], where a name is no word."""


def mapped(columns: Columns) -> Shape | None:
    """The shape that the settings name; None where they name none. Raises ValueError for a
    template that is none.
    """
    settings = columns.settings
    if columns.messages is not None:
        shape = chat_shape(columns.messages, CONVERSATIONS[0], columns.system, columns.tools)
        return Shape("data.columns", told(settings), shape.columns, shape.make)
    if columns.prompt is None or columns.completion is None:
        return None
    prompt = reader("prompt", columns.prompt)
    answer = answer_reader(columns.completion)
    system = None if columns.system is None else reader("system", columns.system)
    tools = columns.tools

    def make(record: JsonObject) -> JsonObject:
        said = None if system is None else system(record)
        made = with_context({"system": said}, ["system"], prompt(record), answer(record))
        return {**made, **tools_of(record, tools)}

    read = [name for one in settings.values() for name in used(one)]
    plain_answer = "" if is_template(columns.completion) else columns.completion
    return Shape("data.columns", told(settings), filled(*dict.fromkeys(read)), make, plain_answer)


def told(settings: dict[str, str]) -> str:
    """What the plan says of the settings."""
    named = [f"{name}={visible_template(value)}" for name, value in settings.items()]
    return f"data.columns says: {', '.join(named)}"


def visible_template(text: str) -> str:
    """A template on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def used(text: str) -> list[str]:
    """The columns that a setting names. All of them, said by ROW, where a template asks for
    that.
    """
    if not is_template(text):
        return [text]
    from jinja2 import meta

    environment = sandbox()
    return sorted(meta.find_undeclared_variables(environment.parse(text)))


def sandbox() -> Any:
    """Where templates run. Jinja's own `tojson` writes for web pages; `json` writes a value as it
    stands.
    """
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        finalize=lambda value: "" if value is None else value,
    )
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False)
    return environment


def reader(field: str, text: str) -> Callable[[JsonObject], Json]:
    """What makes a field of a row from a record. Raises ValueError for a template that is none."""
    if not is_template(text):
        return lambda record: from_column(record, text)
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import TemplateError

    try:
        template = sandbox().from_string(text)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"data.columns.{field} is no template: {error.message} (line {error.lineno} of it)"
        ) from None

    def render(record: JsonObject) -> str:
        try:
            return template.render({ROW: record, **record})
        except (TemplateError, *FOREIGN_CODE_ERRORS) as error:
            advice = ""
            if "is undefined" in str(error):
                advice = '; write {{ NAME | default("") }} where a column may be missing'
            raise Malformed(
                f"the template data.columns.{field} fails: {error}; the row has {quote(record)}"
                f"{advice}"
            ) from None

    return render


def answer_reader(text: str) -> Callable[[JsonObject], Json]:
    """What makes the answer of a row: a column as it stands, since a number may have a name."""
    return reader("completion", text) if is_template(text) else lambda row: column_of(row, text)


def from_column(record: JsonObject, column: str) -> str:
    """The text of a column that a setting names."""
    value = column_of(record, column)
    return "" if value is None else as_text(value, column)


def column_of(record: JsonObject, column: str) -> Json:
    """What stands in a column that a setting names."""
    if column not in record:
        raise Malformed(f'has no column "{column}"; found {quote(record)}{similar(column, record)}')
    return record[column]


def similar(name: str, names: Collection[str]) -> str:
    """The most similar of several names, for the end of a message; nothing where none is."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def check_names(columns: Columns, names: Collection[str], setting: str = "data.columns") -> None:
    """Raise ValueError for a column that the settings name and a file does not have."""
    for field, text in columns.settings.items():
        for name in used(text):
            if name in names or name == ROW:
                continue
            raise ValueError(
                f'{setting}.{field}: there is no column "{name}"; found {quote(names)}'
                f"{similar(name, names)}"
            )
