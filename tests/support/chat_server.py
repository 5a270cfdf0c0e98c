"""A real OpenAI-compatible server on this machine: chat completions whose text, delay and faults a
test chooses.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.servers import free_port

Respond = Callable[["ChatTeacher", dict[str, Any], int], "tuple[int, Any, dict[str, str]] | str"]
"""From the server, a request's body and its number, counted from 1: the text of the answer, or
status, body and headers.
"""


def rewritten(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
    """What a good teacher makes of a request to paraphrase: the same words and some more, other
    ones for each request.
    """
    text = asked(body)
    match = re.search(r"^Text: (.*)$", text, re.MULTILINE)
    source = match[1] if match else text.splitlines()[-1]
    mark = hashlib.sha256(text.encode()).hexdigest()[:4]
    return f"kindly tell me about {source} in case {mark}"


def asked(body: dict[str, Any]) -> str:
    """What the user says in a request."""
    return body["messages"][-1]["content"]


class ChatTeacher:
    """The server, and what it was asked."""

    def __init__(self, respond: Respond = rewritten, port: int | None = None) -> None:
        self.respond = respond
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()
        self.at_once = 0
        self.most_at_once = 0
        self.gone = False
        self.port = port or free_port()
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                teacher.serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """What synthesis.teacher.url is given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        if self.gone:  # on a connection that was open before
            handler.connection.close()
            handler.close_connection = True
            return
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            number = len(self.bodies)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = self.respond(self, body, number)
        finally:
            with self.lock:
                self.at_once -= 1
        status, content, headers = (
            (200, completion(answer), {}) if isinstance(answer, str) else answer
        )
        if self.gone:
            handler.close_connection = True
            return
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            handler.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(payload)))
            handler.end_headers()
            handler.wfile.write(payload)
        except OSError:  # who asked has gone
            handler.close_connection = True

    def stop(self) -> None:
        """Go away: no further connection is taken, and open ones end."""
        self.gone = True
        self.server.shutdown()
        self.server.server_close()


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    """The body of a good answer."""
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def delayed(seconds: float, respond: Respond = rewritten) -> Respond:
    """The same after a while."""

    def later(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        time.sleep(seconds)
        return respond(teacher, body, number)

    return later


@contextmanager
def teaching(respond: Respond = rewritten) -> Iterator[ChatTeacher]:
    """A server for a while."""
    teacher = ChatTeacher(respond)
    try:
        yield teacher
    finally:
        teacher.stop()
