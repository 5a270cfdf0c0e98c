"""Rows of other projects' formats, and the command that converts them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from jobs.data.file_forms import PACKED

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


def as_row(record: dict[str, Any]) -> dict[str, Any] | None:
    """A row of another format as `messages`, or as `prompt` and `completion`; None for one that is
    not understood.

    Columns whose meaning is known and that are no part of the row, such as `tools`, are kept; a
    row's id and the like are left out.
    """
    kept = {"tools": record["tools"]} if record.get("tools") else {}
    given = {name: value for name, value in record.items() if value not in (None, "", [])}
    turns = next((given[name] for name in CONVERSATIONS if isinstance(given.get(name), list)), None)
    if (
        turns is None
        and isinstance(given.get("prompt"), list)
        and isinstance(given.get("completion"), list)
    ):
        turns = given["prompt"] + given["completion"]
    if turns is not None:
        messages = [as_message(turn) for turn in turns]
        first = (
            [{"role": "system", "content": given["system"]}]
            if isinstance(given.get("system"), str)
            else []
        )
        return None if None in messages else {"messages": [*first, *messages], **kept}
    asked = next((name for name in PROMPTS if name in given), None)
    answered = next((name for name in ANSWERS if name in given and name != asked), None)
    if (
        asked is None
        or answered is None
        or isinstance(given[asked], list | dict)
        or isinstance(given[answered], list | dict)
    ):
        return None
    prompt, answer = str(given[asked]), as_text(given[answered])
    if (
        asked == "instruction" and "input" in given and answered != "input"
    ):  # Alpaca: the task, and what it is to be done to
        prompt = f"{prompt}\n\n{given['input']}"
    history = given.get("history", [])
    if "system" not in given and not history:
        return {"prompt": prompt, "completion": answer, **kept}
    before = [{"role": "system", "content": str(given["system"])}] if "system" in given else []
    for question, reply in history:
        before += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {
        "messages": [
            *before,
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ],
        **kept,
    }


def as_message(turn: Any) -> dict[str, Any] | None:
    """A turn of a conversation with `role` and `content`, its other fields as they are; None for
    one that is not understood.
    """
    if not isinstance(turn, dict):
        return None
    role, content = (next((name for name in names if name in turn), None) for names in NAMED)
    if role is None or content is None:
        return None
    said = str(turn[role])
    rest = {name: value for name, value in turn.items() if name not in (role, content)}
    return {"role": ROLES.get(said.lower(), said), "content": turn[content], **rest}


def as_text(value: Any) -> str:
    """A label as text: numbers as they are written, truth values as JSON writes them."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def remedy_for(path: Path, record: Any) -> str | None:
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
