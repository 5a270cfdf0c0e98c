"""Writing rows of other formats anew: python -m jobs.convert FILE NEW.jsonl

Owns what the columns of other projects mean. What the project itself reads is in rows.py, which refuses the rest and names this command.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.records import PACKED, form_of, read_records

PROMPTS = ("prompt", "question", "query", "instruction", "input", "text", "sentence", "source", "content")
ANSWERS = ("completion", "response", "answer", "output", "target", "label", "category", "class", "summary", "intent")
"""What others call the prompt and the answer, the likelier names first."""
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}
"""What others call those who speak."""
NAMED = ("role", "from", "speaker"), ("content", "value", "text")
"""What others call the two fields of a message."""


def main(arguments: list[str]) -> int:
    """Write FILE anew as NEW.jsonl; returns the exit code: 0 done, 2 bad input."""
    if len(arguments) != 2:
        print("usage: python -m jobs.convert FILE NEW.jsonl", file=sys.stderr)
        return 2
    source, target = (Path(argument).expanduser() for argument in arguments)
    try:
        rows = list(converted(source))
        if not rows:
            raise ValueError(f"{source} has no rows")
        write(target, rows)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {len(rows):,} rows to {target}; use them with: data=files data.folder={shlex.quote(str(target.parent))}")
    return 0


def write(target: Path, rows: list[dict[str, Any]]) -> None:
    """Write a new file of JSON lines, whole or not at all."""
    if target.suffix != ".jsonl" or target.exists():
        problem = "is there already; remove it, or choose another name" if target.exists() else "must end in .jsonl"
        raise ValueError(f"{target} {problem}")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(draft, target)


def converted(path: Path) -> Iterator[dict[str, Any]]:
    """Each row of a file as one that the project reads. Raises ValueError with the place of a row that is not understood."""
    if form_of(path) is None or not path.is_file():
        raise ValueError(f"{path} is no file of rows that is read")
    for place, record in read_records(path, Counter(), every=True):
        made = as_row(record) if isinstance(record, dict) else None
        if made is None:
            found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"{path}, {place}: no prompt and answer are found in it; found {found}")
        yield made


def as_row(record: dict[str, Any]) -> dict[str, Any] | None:
    """A row of another format as `messages`, or as `prompt` and `completion`; None for one that is not understood.

    Columns whose meaning is known and that are no part of the row, such as `tools`, are kept; a row's id and the like are left out.
    """
    kept = {"tools": record["tools"]} if record.get("tools") else {}
    given = {name: value for name, value in record.items() if value not in (None, "", [])}
    turns = next((given[name] for name in CONVERSATIONS if isinstance(given.get(name), list)), None)
    if turns is None and isinstance(given.get("prompt"), list) and isinstance(given.get("completion"), list):
        turns = given["prompt"] + given["completion"]
    if turns is not None:
        messages = [as_message(turn) for turn in turns]
        first = [{"role": "system", "content": given["system"]}] if isinstance(given.get("system"), str) else []
        return None if None in messages else {"messages": [*first, *messages], **kept}
    asked = next((name for name in PROMPTS if name in given), None)
    answered = next((name for name in ANSWERS if name in given and name != asked), None)
    if asked is None or answered is None or isinstance(given[asked], list | dict) or isinstance(given[answered], list | dict):
        return None
    prompt, answer = str(given[asked]), as_text(given[answered])
    if asked == "instruction" and "input" in given and answered != "input":  # Alpaca: the task, and what it is to be done to
        prompt = f"{prompt}\n\n{given['input']}"
    history = given.get("history", [])
    if "system" not in given and not history:
        return {"prompt": prompt, "completion": answer, **kept}
    before = [{"role": "system", "content": str(given["system"])}] if "system" in given else []
    for question, reply in history:
        before += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": [*before, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **kept}


def as_message(turn: Any) -> dict[str, Any] | None:
    """A turn of a conversation with `role` and `content`, its other fields as they are; None for one that is not understood."""
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
    """How a file whose rows are like `record` is converted, for the end of a message; None where this module does not understand them."""
    try:
        if not isinstance(record, dict) or as_row(record) is None:
            return None
    except (TypeError, ValueError, KeyError):
        return None
    name = path.name
    for packed in PACKED:
        name = name.removesuffix(packed)
    target = Path(f"{path.absolute().parent.name or 'rows'}-converted") / f"{Path(name).stem}.jsonl"
    return f"convert it, and use what that writes: python -m jobs.convert {shlex.quote(str(path))} {shlex.quote(str(target))}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
