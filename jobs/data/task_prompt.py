"""What a model is asked in use, as a row that is rendered just as the rows it was trained on.

Owns what all rows of a task have in common, which a version's task.json carries, and reading a
conversation that is typed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.messages import Malformed, check_text, describe, read_message, read_tools
from jobs.data.readers import Row, prompt_messages
from jobs.data.rendering import renderer
from jobs.data.tokenization import room_in_use
from jobs.data.truncation import fewer_neighbours

UNKNOWN = ({"role": "assistant", "content": "?"},)
"""Stands for the answer, which nobody knows."""


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as the model is given it."""

    ids: list[int]
    num_tokens: int
    """Of the whole prompt: more than are read where it is cut."""
    max_length: int

    @property
    def cut_note(self) -> str | None:
        """That it is cut, in words; None where it is read whole."""
        if len(self.ids) >= self.num_tokens:
            return None
        return (
            f"the prompt has {self.num_tokens:,} tokens, and as in training "
            f"(train.max_length={self.max_length}) {len(self.ids):,} are read: the oldest turns, "
            "then the middle of the longest text, are left out"
        )


def common_task(corpus: Corpus) -> dict[str, Any]:
    """What all rows of a task are asked with, as settings of task.json; null where each row brings
    its own.
    """
    rows = [row for split in (*corpus.sources.values(), corpus.valid, corpus.test) for row in split]
    systems = {system_of(row) for row in rows}
    tools = {json.dumps(row.tools) for row in rows}
    system = "" if None in systems else None
    if len(systems) == 1:
        system = next(iter(systems)) or ""
    common_tools = [] if "[]" in tools else None
    if len(tools) == 1:
        common_tools = json.loads(next(iter(tools)))
    return {
        "instruction": next(
            (row.instruction.removesuffix("\n") for row in rows if row.instruction), ""
        ),
        "system": system,
        "tools": common_tools,
        "thinking": any(row.thinking for row in rows),
    }


def system_of(row: Row) -> str | None:
    """The system message that a row begins with."""
    first = row.messages[0]
    return first["content"] if first["role"] == "system" else None


def from_prompt(prompt: str, task: dict[str, Any]) -> Row:
    """A prompt as the task's rows have it. Raises ValueError where they have more than a prompt,
    and differ in it.
    """
    null_fields = [name for name in ("system", "tools") if name in task and task[name] is None]
    if null_fields:
        names = " and ".join(
            {"system": "a system message", "tools": "functions"}[name] for name in null_fields
        )
        example = '[{"role": "system", "content": "..."}, {"role": "user", "content": "..."}]'
        example = (
            example if null_fields == ["system"] else f'{{"tools": [...], "messages": {example}}}'
        )
        raise ValueError(
            f"each row that it was trained on brought {names} of its own; ask with "
            f"messages='{example}' instead of prompt="
        )
    system = ({"role": "system", "content": task["system"]},) if task.get("system") else ()
    return make_row(
        (*system, *prompt_messages(prompt, task["instruction"])),
        task,
        task.get("tools"),
        task["instruction"],
    )


def from_messages(text: str, task: dict[str, Any]) -> Row:
    """A typed conversation: a list of messages, or a row of a file without its answer. Raises
    ValueError for one that cannot be read.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"messages is no JSON ({error}); write it as in a file of rows") from None
    record = parsed if isinstance(parsed, dict) else {"messages": parsed}
    messages = record.get("messages")
    if messages == []:
        raise ValueError("messages is empty; it must end with what is asked")
    if not isinstance(messages, list):
        raise ValueError(
            'messages must be a list of messages, or an object with "messages", got '
            f"{describe(parsed)}"
        )
    if unknown := record.keys() - {"messages", "tools"}:
        raise ValueError(
            f'messages has {", ".join(sorted(unknown))} beside "messages" and "tools", which is '
            "not used; leave it out"
        )
    try:
        read = tuple(
            read_message(message, position) for position, message in enumerate(messages, start=1)
        )
        tools = read_tools(record["tools"]) if "tools" in record else task.get("tools")
    except Malformed as error:
        raise ValueError(f"messages: {error}") from None
    if read[-1]["role"] == "assistant":
        raise ValueError(
            "messages ends with an answer; leave that out, it is what the model is asked for"
        )
    return make_row(read, task, tools)


def make_row(
    context: tuple[dict[str, Any], ...], task: dict[str, Any], tools: Any, instruction: str = ""
) -> Row:
    """A row without an answer."""
    opening = f"{instruction}\n" if instruction else ""
    return Row(
        (*context, *UNKNOWN),
        "",
        "what is asked",
        tuple(tools or ()),
        opening,
        bool(task.get("thinking")),
    )


def reworded(row: Row, task: dict[str, Any]) -> Row:
    """A row as another task's version knows it: its own instruction before a bare prompt. Chats
    stay as they are.
    """
    opening = f"{task['instruction']}\n" if task.get("instruction") else ""
    if row.instruction == opening or [message["role"] for message in row.context] != ["user"]:
        return row
    asked = row.context[0]
    content = opening + asked["content"].removeprefix(row.instruction)
    messages = (asked | {"content": content}, row.messages[-1])
    return dataclasses.replace(row, messages=messages, instruction=opening)


def command_text(row: Row, task: dict[str, Any]) -> tuple[str, str]:
    """What asks for a row's answer on the command line, as setting and value: its prompt alone
    where the task says the rest.
    """
    prompt = row.context[-1]["content"].removeprefix(row.instruction)
    try:
        alike = prompt.strip() and from_prompt(prompt, task)
    except ValueError:
        alike = None
    if alike and (alike.context, alike.tools) == (row.context, row.tools):
        return "prompt", prompt
    value: Any = list(row.context)
    if list(row.tools) != (task["tools"] or []):
        value = {"tools": list(row.tools), "messages": value}
    return "messages", json.dumps(value, ensure_ascii=False)


def encode_asked_row(row: Row, task: dict[str, Any], template: ChatTokenizer) -> AskedPrompt:
    """What is asked, cut as the test rows were. Raises ValueError for what the template or the
    model does not know.
    """
    text = check_text(renderer(template).render(row).prompt, "what is asked")
    ids = template.encode(text)
    room = room_in_use(task["max_length"], task["max_new_tokens"])
    if len(ids) > room and row.neighbours:
        row, _, ids = fewer_neighbours(row, room, template)
    num_tokens = len(ids)
    if num_tokens > room:
        _, ids, _ = renderer(template).shorten(row, room)
    template.check_known(ids)
    return AskedPrompt(ids, num_tokens, task["max_length"])
