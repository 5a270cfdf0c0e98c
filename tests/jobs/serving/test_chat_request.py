"""A request of the chat interface is rendered as the training rows were."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.data.task_prompt import from_prompt
from jobs.serving.chat_request import row_of

PLAIN: dict[str, Any] = {"instruction": "Which code?", "system": "", "tools": [], "thinking": False}
SYSTEM = PLAIN | {"instruction": "", "system": "You code diagnoses."}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def context(request: dict[str, Any], task: dict[str, Any]) -> tuple[Any, ...]:
    return row_of(request, task).context


@pytest.mark.parametrize("task", [PLAIN, SYSTEM])
def test_one_message_of_the_user_is_what_a_training_row_asks(task: dict[str, Any]) -> None:
    assert row_of({"input": [user("Cholera")]}, task) == from_prompt("Cholera", task)
    assert row_of({"input": "Cholera"}, task) == from_prompt("Cholera", task)
    parts = [{"type": "input_text", "text": "Cholera"}]
    assert row_of({"input": [user(parts)]}, task) == from_prompt("Cholera", task)


def test_an_instruction_that_the_client_sends_too_stands_there_once() -> None:
    sent = row_of({"input": [user("Which code?\nCholera")]}, PLAIN)
    assert sent == from_prompt("Cholera", PLAIN)


def test_a_conversation_without_a_system_message_has_the_tasks() -> None:
    talk = [user("Hi"), {"role": "assistant", "content": "Hello"}, user("Cholera")]
    told = context({"input": talk}, SYSTEM)
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert told[0]["content"] == "You code diagnoses."
    own = context({"input": [{"role": "system", "content": "Be brief."}, *talk]}, SYSTEM)
    assert [message["content"] for message in own[:2]] == ["Be brief.", "Hi"]
    assert context({"input": talk}, PLAIN)[0]["content"] == "Which code?\nHi"


def test_a_task_whose_rows_brought_their_own_system_message_asks_for_one() -> None:
    task = PLAIN | {"instruction": "", "system": None}
    talk = [user("Hi"), {"role": "assistant", "content": "Hello"}, user("Cholera")]
    for messages in ([user("Cholera")], talk):
        with pytest.raises(ValueError, match="system"):
            row_of({"input": messages}, task)


def test_functions_of_the_request_are_those_of_the_row() -> None:
    inner = {"name": "look_up", "description": "d", "parameters": {"type": "object"}}
    row = row_of({"input": [user("x")], "tools": [{"type": "function"} | inner]}, SYSTEM)
    assert row.tools == ({"type": "function", "function": inner},)
    calls = [
        user("x"),
        {"type": "function_call", "name": "look_up", "arguments": '{"a": 1}', "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "y"},
    ]
    told = context({"input": calls}, PLAIN)
    assert [message["role"] for message in told] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({"input": []}, "input is empty"),
        ({"input": [user("x")], "temperature": 0.7}, "temperature=0.7 has no effect"),
        ({"input": [user("x")], "top_p": 0.5}, "top_p=0.5 has no effect"),
        ({"input": [user("x")], "max_output_tokens": 0}, "at least 1"),
        ({"input": [user([{"type": "input_image", "image_url": "u"}])]}, "input_image"),
        ({"input": [user("x")], "tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [user("x"), {"role": "assistant", "content": "y"}]}, "ends with an answer"),
        ({"input": [user("x")], "tools": 3}, "tools must be a list of functions, got a number"),
        ({"input": [user("x")], "tools": {"a": 1}}, "tools must be a list of functions"),
        ({"input": [user("x")], "tools": [3]}, "tools may be functions only, got a number"),
        ({"input": [{"role": "x", "content": "y"}]}, r"role of item 1 of input .* got text \(x\)"),
        ({"input": [user("a"), {"role": [], "content": "y"}]}, "role of item 2 .* got a list"),
        ({"input": [{"content": "y"}]}, "role of item 1 of input .* got null"),
        ({"input": [user("")]}, "last message of input is empty"),
        ({"input": [user([])]}, "last message of input is empty"),
        ({"input": [user("x"), user(" \n")]}, "last message of input is empty"),
        ({"input": [{"role": "system", "content": "y"}]}, "system messages alone"),
        ({"input": [user("\ud800")]}, "item 1 of input holds half of a surrogate pair"),
        ({"input": [user([{"type": "text", "text": 3}])]}, "part of item 1 of input must be text"),
    ],
)
def test_what_cannot_be_asked_is_named(request_body: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        row_of(request_body, PLAIN)


def test_a_refusal_names_the_field_that_the_conversation_stands_in() -> None:
    with pytest.raises(ValueError, match="role of item 2 of messages"):
        row_of({"messages": [user("a"), {"role": "x", "content": "y"}]}, PLAIN, "messages")
    with pytest.raises(ValueError, match="last message of messages is empty"):
        row_of({"messages": [user("")]}, PLAIN, "messages")
