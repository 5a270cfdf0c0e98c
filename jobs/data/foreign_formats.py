"""Rows of other projects' formats, and the command that converts them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from jobs.data.file_forms import PACKED
from jobs.files.json_types import Json, JsonObject

PROMPTS = (
    "prompt",
    "question",
    "query",
    "instruction",
    "input",
    "text",
    "sentence",
    "source",
    "content",
)
ANSWERS = (
    "completion",
    "response",
    "answer",
    "output",
    "target",
    "label",
    "category",
    "class",
    "summary",
    "intent",
)
"""What others call the prompt and the answer, the likelier names first."""
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
"""What others call those who speak."""
NAMED = ("role", "from", "speaker"), ("content", "value", "text")
"""What others call the two fields of a message."""


def as_row(record: JsonObject) -> JsonObject | None:
    """A row of another format as `messages`, or as `prompt` and `completion`; None for one that is
    not understood.

    Columns whose meaning is known and that are no part of the row, such as `tools`, are kept; a
    row's id and the like are left out.
    """
    tools = {"tools": record["tools"]} if record.get("tools") else {}
    filled = {name: value for name, value in record.items() if value not in (None, "", [])}
    turns = next(
        (filled[name] for name in CONVERSATIONS if isinstance(filled.get(name), list)), None
    )
    if (
        turns is None
        and isinstance(filled.get("prompt"), list)
        and isinstance(filled.get("completion"), list)
    ):
        turns = filled["prompt"] + filled["completion"]
    if turns is not None:
        messages = [as_message(turn) for turn in turns]
        first = (
            [{"role": "system", "content": filled["system"]}]
            if isinstance(filled.get("system"), str)
            else []
        )
        return None if None in messages else {"messages": [*first, *messages], **tools}
    asked = next((name for name in PROMPTS if name in filled), None)
    answered = next((name for name in ANSWERS if name in filled and name != asked), None)
    if (
        asked is None
        or answered is None
        or isinstance(filled[asked], list | dict)
        or isinstance(filled[answered], list | dict)
    ):
        return None
    prompt = str(filled[asked])
    answer = as_text(filled[answered])
    if (
        asked == "instruction" and "input" in filled and answered != "input"
    ):  # Alpaca: the task, and what it is to be done to
        prompt = f"{prompt}\n\n{filled['input']}"
    history = filled.get("history", [])
    if "system" not in filled and not history:
        return {"prompt": prompt, "completion": answer, **tools}
    before = [{"role": "system", "content": str(filled["system"])}] if "system" in filled else []
    for question, reply in history:
        before += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {
        "messages": [
            *before,
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ],
        **tools,
    }


def as_message(turn: Json) -> JsonObject | None:
    """A turn of a conversation with `role` and `content`, its other fields as they are; None for
    one that is not understood.
    """
    if not isinstance(turn, dict):
        return None
    role, content = (next((name for name in names if name in turn), None) for names in NAMED)
    if role is None or content is None:
        return None
    role_name = str(turn[role])
    extra_fields = {name: value for name, value in turn.items() if name not in (role, content)}
    return {
        "role": ROLES.get(role_name.lower(), role_name),
        "content": turn[content],
        **extra_fields,
    }


def as_text(value: Json) -> str:
    """A label as text: numbers as they are written, truth values as JSON writes them."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def remedy_for(path: Path, record: Json) -> str | None:
    """How a file whose rows are like `record` is converted, for the end of a message; None where
    this module does not understand them.
    """
    try:
        if not isinstance(record, dict) or as_row(record) is None:
            return None
    except (TypeError, ValueError, KeyError):
        return None
    name = path.name
    for packed in PACKED:
        name = name.removesuffix(packed)
    target = Path(f"{path.absolute().parent.name or 'rows'}-converted") / f"{Path(name).stem}.jsonl"
    return (
        f"convert it, and use what that writes: python -m jobs.convert {shlex.quote(str(path))} "
        f"{shlex.quote(str(target))}"
    )
