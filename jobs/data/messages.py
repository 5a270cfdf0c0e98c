"""Messages and tools: what a conversation in a data file may hold, in the form that chat templates
are written for.

Owns the fields of a message and of a tool, readers.py the files and the columns. What a template
makes of them is decided in rendering.py.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

from jobs.files.json_types import Json, JsonObject

Message = JsonObject
"""A message of a conversation: role and content, which are texts, and beside them the fields that
its chat template may read, such as tool_calls of an assistant.
"""
ROLES = ("system", "user", "assistant", "tool")
"""Templates know these, and some know others."""
OTHER_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
}
"""What other projects call those who speak, and no template does."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields in which an assistant's reasoning stands."""
CLOSED_THOUGHT = "</think>"
"""Ends a reasoning that stands in the content itself."""
NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
    str: "text",
}


class Malformed(ValueError):
    """What is wrong with one row; the reader adds the file and the line. Leaves no reader."""


def read_message(message: Json, position: int) -> Message:
    """A message as templates expect it: content as one text, arguments as objects, and no null
    fields, which parquet adds to every row and templates would print as "None".
    """
    if not isinstance(message, dict):
        raise Malformed(
            f"message {position} must be an object with role and content, got {describe(message)}"
        )
    fields = {name: value for name, value in message.items() if value is not None}
    if "tool_calls" in fields:
        fields["tool_calls"] = read_calls(fields["tool_calls"], position)
        if not fields["tool_calls"]:
            del fields["tool_calls"]
    for name in ("role", "content"):
        if name == "content" and name not in fields and "tool_calls" in fields:
            fields["content"] = ""  # the usual form of a message that only calls
        if name not in message and name not in fields:
            raise Malformed(f'message {position} has no "{name}"; found {quote(message)}')
        value = fields.get(name)
        if name == "content" and isinstance(value, list):
            value = fields[name] = join_parts(value, position)
        check_text(value, f'"{name}" of message {position}')
    for name in THOUGHTS:
        if name in fields:
            check_text(fields[name], f'"{name}" of message {position}')
    role = fields["role"]
    if role.lower() in OTHER_NAMES:
        name = OTHER_NAMES[role.lower()]
        raise Malformed(
            f'message {position} has the role "{role}", which chat templates call "{name}"; write '
            "that, or each message with from and value"
        )
    if role not in ROLES:
        near = difflib.get_close_matches(role.lower(), ROLES, n=1, cutoff=0.75)
        if near:
            raise Malformed(f'message {position} has the role "{role}"; did you mean "{near[0]}"?')
    return fields


def join_parts(content_parts: list[Json], position: int) -> str:
    """A content that is a list of texts as one text, a line for each, as servers join it for
    templates that take one text.
    """
    texts = []
    for content_part in content_parts:
        text = content_part
        if isinstance(content_part, dict):
            kind = content_part.get("type", "text")
            if kind != "text":
                raise Malformed(
                    f'message {position} holds a part of the type "{kind}"; only texts can be '
                    "trained on"
                )
            text = content_part.get("text")
        texts.append(check_text(text, f"a part of message {position}"))
    return "\n".join(texts)


def read_calls(calls: Json, position: int) -> list[JsonObject]:
    """The calls of a message, each with its arguments as an object: some templates would quote a
    text a second time.
    """
    name = f'"tool_calls" of message {position}'
    calls = parsed(calls, name)
    if not isinstance(calls, list):
        raise Malformed(f"{name} must be a list, got {describe(calls)}")
    read = []
    for call in calls:
        if not isinstance(call, dict):
            raise Malformed(f"{name} must hold objects, got {describe(call)}")
        inner = call.get("function", call)
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise Malformed(
                f'{name}: a call has no "name"; found '
                f"{quote(inner if isinstance(inner, dict) else call)}"
            )
        inner = {
            key: value for key, value in inner.items() if key != "arguments" or value is not None
        }
        inner.setdefault("arguments", {})  # a call of a function that takes none
        if isinstance(inner.get("arguments"), str):
            try:
                arguments = json.loads(inner["arguments"] or "{}")
            except ValueError:
                arguments = None
            if isinstance(arguments, dict):  # a template gets other texts as they are
                inner["arguments"] = arguments
        fields = {key: value for key, value in call.items() if value is not None}
        read.append(fields | {"function": inner} if "function" in call else inner)
    return read


def read_tools(value: Json) -> tuple[JsonObject, ...]:
    """The functions that a row's conversation may call; they may be written as JSON in a text, as
    tables without nested columns do.
    """
    value = parsed(value, '"tools"')
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Malformed(f'"tools" must be a list, got {describe(value)}')
    tools = tuple(parsed(tool, 'an entry of "tools"') for tool in value)
    for tool in tools:
        if not isinstance(tool, dict) or tool_name(tool) is None:
            description = quote(tool) if isinstance(tool, dict) else describe(tool)
            raise Malformed(
                'an entry of "tools" must be an object with a function\'s name and parameters, '
                f"found {description}"
            )
    return tools


def tool_name(tool: JsonObject) -> str | None:
    """The name of a tool, or of a call, in either of the two usual forms."""
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) and name else None


def parsed(value: Json, name: str) -> Json:
    """`value`, or what it says if it is a text with JSON."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise Malformed(f"{name} is a text that is no JSON ({error}); write it as JSON") from None


def without_nulls(value: Json) -> Json:
    """A value without null fields at any depth: a table gives each of its rows all fields that any
    row has.
    """
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def thinks(message: Message) -> bool:
    """Whether an answer comes with its reasoning."""
    return any(message.get(name) for name in THOUGHTS) or CLOSED_THOUGHT in message["content"]


def check_text(value: Json, name: str) -> str:
    """`value` if it is text that can be written as UTF-8."""
    if not isinstance(value, str):
        remedy = "; write it in quotes" if isinstance(value, (bool, int, float)) else ""
        raise Malformed(f"{name} must be text, got {describe(value)}{remedy}")
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{name} holds half of a surrogate pair, which is no character") from None
    return value


def as_text(value: Json, column: str) -> str:
    """A value of a column as text: numbers as they are written, truth values as JSON writes
    them.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | bytes) or value is None:
        raise Malformed(
            f'"{column}" must be text, got {describe(value)}; a template can make one of it, such '
            f"as '{one_text(column, value)}' in data.columns"
        )
    return json.dumps(value) if isinstance(value, bool) else str(value)


def one_text(column: str, value: Json) -> str:
    """A template that makes one text of a column's value that is none: of texts and numbers in a
    list what they say, of anything else JSON.
    """
    is_plain = isinstance(value, list) and not any(isinstance(one, list | dict) for one in value)
    writer = 'join(", ")' if is_plain else "json"
    return "{{ " + f"{reference(column)} | {writer}" + " }}"


def reference(column: str) -> str:
    """A column in a template."""
    return column if re.fullmatch(r"[A-Za-z_]\w*", column) else f"row[{json.dumps(column)}]"


def describe(value: Json) -> str:
    """The kind of a value and, where short, the value itself, in words for people who do not write
    Python.
    """
    kind = NAMES.get(type(value), type(value).__name__)
    return (
        kind if value is None or isinstance(value, (list, dict)) else f"{kind} ({str(value)[:40]})"
    )


def quote(names: Iterable[str]) -> str:
    """Column names for a message."""
    return ", ".join(f'"{visible(str(name))}"' for name in list(names)[:12]) or "none"


def visible(text: str) -> str:
    """A text for a message, with what a terminal would obey or could not show written out."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
