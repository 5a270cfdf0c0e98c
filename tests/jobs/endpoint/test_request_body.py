"""What a request's body may be, in bytes and in time, whatever its headers say."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from jobs.endpoint import app
from jobs.endpoint.app import MOST_BYTES, MOST_DISCARDED, Endpoint
from jobs.endpoint.chat_completions import read_request
from jobs.llama_cpp.runtime import Runtime

HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]


def sent(size: int, count: int, pause: float = 0.0, end: str = "") -> tuple[int, int]:
    """The status that an endpoint without models answers with, and how many pieces of a body
    without a length it has read.
    """
    taken = 0
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        nonlocal taken
        await asyncio.sleep(pause)
        if end and taken:
            return {"type": end}
        taken += 1
        return {"type": "http.request", "body": b"x" * size, "more_body": taken < count}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": HEADERS}
    scope |= {"query_string": b"", "scheme": "http", "server": ("localhost", 80)}
    endpoint = Endpoint([], cast(Runtime, None), {"localhost"}, None)
    asyncio.run(endpoint.app()(scope, receive, send))
    return statuses[0], taken


def test_a_body_that_does_not_say_its_length_is_read_no_further_than_is_taken() -> None:
    piece = MOST_BYTES // 4
    assert sent(piece, 1000) == (413, MOST_DISCARDED // piece + 1)
    assert sent(piece, 8) == (413, 8), "all of it is read, or who sends it reads no answer"
    assert sent(10, 3) == (400, 3), "it is read, and is no JSON"


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    assert sent(1, 10**9, pause=0.02)[0] == 408
    assert sent(1, 10, end="http.disconnect")[0] == 400


ASKED: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": []}, "model must be the name of one, got a list"),
        ({"model": None}, "model must be the name of one, got null"),
        ({"messages": {"role": "user"}}, "messages must be a list of messages"),
        ({"stream": "yes"}, "stream must be true or false, got 'yes'"),
        ({"stream": True, "stream_options": 3}, "stream_options must be an object"),
        ({"stream": True, "stream_options": [1]}, "stream_options must be an object"),
        ({"stream": True, "stream_options": {"other": True}}, "stream_options.other"),
        ({"stream": True, "stream_options": {"include_usage": "no"}}, "include_usage must be"),
        ({"stream_options": {"include_usage": True}}, "has no effect without stream"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "no effect without stream"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages holds half of a surr"),
        ({"stop": "\ud800"}, "stop holds half of a surrogate pair"),
        ({"\ud800": 1}, "the body holds half of a surrogate pair"),
    ],
)
def test_what_a_request_may_not_say_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_request(json.dumps(ASKED | settings).encode())


@pytest.mark.parametrize(
    "settings",
    [
        {"stream": None, "stream_options": None, "top_p": 1, "seed": None},
        {"seed": 7, "top_p": 0.9, "stream_options": {}},
        {"stream": False, "stream_options": {"include_usage": False}},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"stream": False, "user": "me", "messages": [{"role": "user", "content": "🧬"}]},
    ],
)
def test_what_clients_send_by_themselves_is_taken(settings: dict[str, Any]) -> None:
    assert read_request(json.dumps(ASKED | settings).encode())["model"] == "a"
