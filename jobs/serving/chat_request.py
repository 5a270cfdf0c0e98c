"""A request of the chat interface (OpenAI's Responses) as a row that is rendered as the training
rows were.

Who sends one message from the user asks as job=predict prompt=... does: the task's system message
and instruction are put around it. A longer conversation is taken as it is, with the task's system
message before it where it has none.
"""

from __future__ import annotations

import json
from typing import Any

from jobs.data.messages import ROLES, check_text, describe
from jobs.data.readers import Row
from jobs.data.task_prompt import from_messages, from_prompt

TEXTS = ("input_text", "output_text", "text")
"""Types of parts of a message that hold text."""
IGNORED_WHEN = {"temperature": (0,), "top_p": (1,), "truncation": ("disabled",)}
"""Settings of a request that may only have these values: answers are greedy, as when judged."""


def row_of(request: dict[str, Any], task: dict[str, Any], field: str = "input") -> Row:
    """The row that a request asks to be answered, whose conversation stands in `field`. Raises
    ValueError for what cannot be asked.
    """
    check_settings(request)
    items = request.get(field)
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list):
        raise ValueError(f"{field} must be a list of messages, got {describe(items)}")
    if not items:
        raise ValueError(f"{field} is empty; it must end with what is asked")
    messages = [
        message_of(item, f"item {position} of {field}")
        for position, item in enumerate(items, start=1)
    ]
    check_question(messages, field)
    tools = tools_of(request.get("tools"))
    if not tools and [message["role"] for message in messages] == ["user"]:
        return from_prompt(bare_prompt(messages[0]["content"], task), task)
    if messages[0]["role"] != "system":
        if task.get("system"):
            messages = [{"role": "system", "content": task["system"]}, *messages]
        elif "system" in task and task["system"] is None:
            raise ValueError(
                "each row that it was trained on brought a system message of its own; begin "
                f"{field} with a message of the role system"
            )
    asked: dict[str, Any] = {"messages": with_instruction(messages, task)}
    if tools:
        asked["tools"] = tools
    return from_messages(json.dumps(asked), task)


def check_question(messages: list[dict[str, Any]], field: str) -> None:
    """Raise ValueError for messages that ask nothing."""
    if all(message["role"] == "system" for message in messages):
        raise ValueError(f"{field} holds system messages alone; it must end with what is asked")
    last = messages[-1]
    if last["role"] == "user" and not last["content"].strip():
        raise ValueError(f"the last message of {field} is empty; it must be what is asked")


def check_settings(request: dict[str, Any]) -> None:
    """Raise ValueError for settings that would have no effect."""
    for name, allowed in IGNORED_WHEN.items():
        value = request.get(name)
        if value is not None and value not in allowed:
            raise ValueError(
                f"{name}={value} has no effect: answers are greedy, as they were judged; leave it "
                "out"
            )
    limit = request.get("max_output_tokens")
    if limit is not None and limit < 1:
        raise ValueError(f"max_output_tokens must be at least 1, got {limit}")


def message_of(item: Any, place: str) -> dict[str, Any]:
    """One item of a request's conversation as a message of a data file. Raises ValueError."""
    if not isinstance(item, dict):
        raise ValueError(f"{place} must be an object, got {describe(item)}")
    kind = item.get("type") or "message"
    if kind == "function_call":
        call = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    if kind == "function_call_output":
        return {"role": "tool", "content": str(item.get("output", ""))}
    if kind != "message":
        raise ValueError(f'{place} has the type "{kind}", which is not understood')
    role = item.get("role")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise ValueError(
            f"the role of {place} must be user, assistant, system, developer or tool, got "
            f"{describe(role)}"
        )
    return {"role": role, "content": text_of(item.get("content"), place)}


def text_of(content: Any, place: str) -> str:
    """A message's content as one text. Raises ValueError for parts that are no text."""
    if isinstance(content, str):
        return check_text(content, place)
    if not isinstance(content, list):
        raise ValueError(f"{place} has no text, got {describe(content)}")
    texts = []
    for content_part in content:
        kind = content_part.get("type") if isinstance(content_part, dict) else None
        if kind not in TEXTS:
            raise ValueError(f'{place} holds a part of the type "{kind}"; send text')
        texts.append(check_text(content_part.get("text"), f"a part of {place}"))
    return "\n".join(texts)


def tools_of(tools: Any) -> list[dict[str, Any]]:
    """A request's functions as data files describe them. Raises ValueError."""
    if tools is not None and not isinstance(tools, list):
        raise ValueError(f"tools must be a list of functions, got {describe(tools)}")
    return [tool_of(tool) for tool in tools or []]


def tool_of(tool: Any) -> dict[str, Any]:
    """A function as data files describe it. Raises ValueError for other kinds of tools."""
    if not isinstance(tool, dict):
        raise ValueError(f"tools may be functions only, got {describe(tool)}")
    if tool.get("type") != "function":
        raise ValueError(f'tools may be functions only, got the type "{tool.get("type")}"')
    if "function" in tool:
        return {"type": "function", "function": tool["function"]}
    inner = {
        key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None
    }
    return {"type": "function", "function": inner}


def bare_prompt(text: str, task: dict[str, Any]) -> str:
    """A prompt without the task's instruction, for a client that has sent that as well."""
    instruction = task.get("instruction") or ""
    return text.removeprefix(f"{instruction}\n") if instruction else text


def with_instruction(messages: list[dict[str, Any]], task: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages with the task's instruction before the first one of the user."""
    instruction = task.get("instruction") or ""
    for index, message in enumerate(messages):
        if message["role"] == "user" and instruction:
            text = f"{instruction}\n{bare_prompt(message['content'], task)}"
            return [*messages[:index], message | {"content": text}, *messages[index + 1 :]]
    return messages
