"""The endpoint: /v1/chat/completions and /v1/models over HTTP.

Answers only to names that it knows itself by, so that no web page can reach it by a name of its
own, and to the token where one is set.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from jobs.endpoint.chat_completions import error, read_request, streamed, whole
from jobs.endpoint.shipped_model import Answer, Question, ShippedModel
from jobs.llama_cpp.runtime import Runtime

MOST_BYTES = 4_000_000
MOST_DISCARDED = 64_000_000
"""Of a body that is too large, so many bytes are read and forgotten: who is still sending when the
connection ends gets no answer.
"""
BODY_SECONDS = 60.0
"""How long a request may take to arrive."""


class Endpoint:
    """Some models in one runtime, over HTTP."""

    def __init__(
        self,
        models: Sequence[ShippedModel],
        runtime: Runtime,
        hosts: Collection[str],
        token: str | None,
    ) -> None:
        self.models = {model.name: model for model in models}
        self.runtime, self.token = runtime, token
        self.hosts = {host.lower() for host in hosts}

    def app(self) -> Starlette:
        """As an ASGI application."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route("/health", self.health),
        ]
        return Starlette(routes=routes)

    def runtime_of(self, model: ShippedModel) -> Runtime:
        """What answers for a model."""
        return self.runtime

    def refusal(self, request: Request) -> Response | None:
        """Why a caller gets no answer, None where it may ask."""
        host = request.headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.strip("[]") not in self.hosts:
            return JSONResponse(
                error(f"this endpoint is not called {host}; serve.allowed_hosts names others"), 403
            )
        if self.token is not None:
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(sent.encode(), self.token.encode()):
                return JSONResponse(
                    error("the API key is not serve.token", "authentication_error"), 401
                )
        return None

    async def health(self, request: Request) -> Response:
        """Whether it answers."""
        refused = self.refusal(request)
        return refused if refused is not None else JSONResponse({"status": "ok"})

    async def list_models(self, request: Request) -> Response:
        """The names that a request can give."""
        refused = self.refusal(request)
        if refused is not None:
            return refused
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "orchestrator"}
            for name in self.models
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        refused = self.refusal(request)
        if refused is not None:
            return refused
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse(error("send application/json"), 415)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await body_of(request)
        except TimeoutError:
            return JSONResponse(error(f"the request took more than {BODY_SECONDS:g} s"), 408)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return JSONResponse(error(f"a request may have {MOST_BYTES:,} bytes"), 413)
        try:
            asked = read_request(body)
            name = asked.get("model")
            if name not in self.models:
                known = ", ".join(self.models)
                message = f"there is no model {name!r}; there are: {known}"
                return JSONResponse(error(message, code="model_not_found"), 404)
            model = self.models[name]
            question = await run_in_threadpool(model.question, self.runtime_of(model), asked)
            headers = tell_cut(model, question)
            if asked.get("stream"):
                with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
                events = self.events(model, question, with_usage)
                return StreamingResponse(events, 200, headers, "text/event-stream")
            answer = await run_in_threadpool(model.answer, self.runtime_of(model), question)
        except ValueError as problem:
            return JSONResponse(error(str(problem)), 400)
        except RuntimeError as problem:
            return JSONResponse(error(str(problem), "server_error"), 502)
        report(model, answer)
        return JSONResponse(whole(model.name, answer), headers=headers)

    def events(self, model: ShippedModel, question: Question, with_usage: bool) -> Iterator[str]:
        """A streamed answer as server-sent events. What goes wrong on the way is an event too."""

        def pieces() -> Iterator[str | Answer]:
            for piece in model.pieces(self.runtime_of(model), question):
                if isinstance(piece, Answer):
                    report(model, piece)
                yield piece

        try:
            for chunk in streamed(model.name, pieces(), with_usage):
                yield event(chunk)
        except (ValueError, RuntimeError) as problem:
            yield event(error(str(problem), "server_error"))
            return
        yield "data: [DONE]\n\n"


async def body_of(request: Request) -> bytes | None:
    """The body of a request; None for one that is too large, whatever its headers say: no more of
    it is kept than may be, nor read than MOST_DISCARDED.
    """
    if int(request.headers.get("content-length") or 0) > MOST_DISCARDED:
        return None
    body, num_bytes = bytearray(), 0
    async for piece in request.stream():
        num_bytes += len(piece)
        if num_bytes <= MOST_BYTES:
            body += piece
        elif num_bytes > MOST_DISCARDED:
            break
    return bytes(body) if num_bytes <= MOST_BYTES else None


def event(content: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def tell_cut(model: ShippedModel, question: Question) -> dict[str, str]:
    """One line on the terminal for a prompt that is cut, and the headers that tell its sender."""
    prompt = question.prompt
    if prompt.cut_note is None:
        return {}
    print(f"{model.name}: {prompt.cut_note}", file=sys.stderr, flush=True)
    return {"X-Prompt-Shortened": f"{len(prompt.ids)} of {prompt.num_tokens} tokens are read"}


def report(model: ShippedModel, answer: Answer) -> None:
    """One line on the terminal for each answer: how long it took, and nothing of what was said."""
    print(f"{model.name}: {answer}", file=sys.stderr, flush=True)


def serve(endpoint: Endpoint, listening: Any) -> None:
    """Answer on a socket until the process is told to stop."""
    import uvicorn

    settings = uvicorn.Config(
        endpoint.app(), log_level="error", access_log=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(settings).run(sockets=[listening])
