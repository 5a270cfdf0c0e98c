"""What a request's body may be, in bytes and in time, whatever its headers say."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from jobs.endpoint import app
from jobs.endpoint.app import MOST_BYTES, Endpoint
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
    status, taken = sent(MOST_BYTES // 4, 1000)
    assert (status, taken) == (413, 5)
    assert sent(10, 3) == (400, 3), "it is read, and is no JSON"


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    assert sent(1, 10**9, pause=0.02)[0] == 408
    assert sent(1, 10, end="http.disconnect")[0] == 400
