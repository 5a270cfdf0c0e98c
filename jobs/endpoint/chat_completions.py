"""OpenAI's chat completions: what a request may hold, and how answers and errors look."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from jobs.data.messages import describe
from jobs.endpoint.shipped_model import Answer

NO_EFFECT = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "n": (1,),
    "top_logprobs": (0,),
    "tool_choice": ("none", "auto"),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
"""Settings that are refused unless they have one of these values."""
USED = (
    *("model", "messages", "tools", "stream", "stream_options", "max_tokens", "temperature"),
    *("max_completion_tokens", "top_p", "seed", "stop"),
)
IGNORED = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier")
"""What says nothing about the answer."""
STREAM_OPTIONS = {"include_usage", "include_obfuscation"}
"""The second says nothing about the answer."""
RANGES = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0)}


def read_request(body: bytes) -> dict[str, Any]:
    """A request's settings. Raises ValueError, naming the setting, for one that cannot be."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON ({error})") from None
    if not isinstance(request, dict):
        raise ValueError(f"the body must be an object, got {describe(request)}")
    check_encodable(request)
    if not isinstance(request.get("model"), str):
        raise ValueError(f"model must be the name of one, got {describe(request.get('model'))}")
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise ValueError(f"messages must be a list of messages, got {describe(messages)}")
    if not messages:
        raise ValueError("messages is empty; it must end with what is asked")
    for name, value in request.items():
        if name in NO_EFFECT:
            if value is not None and value not in NO_EFFECT[name]:
                raise ValueError(f"{name}={value} is not supported; leave it out")
        elif name not in USED and name not in IGNORED:
            raise ValueError(f"{name} is not supported; leave it out")
    for name in ("max_tokens", "max_completion_tokens"):
        value = request.get(name)
        if value is not None and (not is_whole(value) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    for name, (low, high) in RANGES.items():
        value = request.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value}")
    check_streaming(request)
    seed = request.get("seed")
    if seed is not None and not (is_whole(seed) and 0 <= seed < 2**32):
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, got {seed!r}")
    return request | {"stop": stops(request.get("stop"))}


def check_encodable(request: dict[str, Any]) -> None:
    """Raise ValueError where a text holds what no tokenizer takes."""
    for name, value in request.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            said = name if name.isascii() else "the body"
            raise ValueError(
                f"{said} holds half of a surrogate pair, which is no character"
            ) from None


def check_streaming(request: dict[str, Any]) -> None:
    """Raise ValueError for what does not say whether and how an answer is streamed."""
    stream, options = request.get("stream"), request.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise ValueError(f"stream must be true or false, got {stream!r}")
    if options is None:
        return
    if not isinstance(options, dict):
        raise ValueError(f"stream_options must be an object, got {describe(options)}")
    if unknown := options.keys() - STREAM_OPTIONS:
        raise ValueError(f"stream_options.{min(unknown)} is not supported; leave it out")
    for name, value in options.items():
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"stream_options.{name} must be true or false, got {value!r}")
        if value and not stream:
            raise ValueError(f"stream_options.{name} has no effect without stream; leave it out")


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def stops(value: Any) -> list[str] | None:
    """The texts at which an answer ends."""
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"stop must be a text or a list of texts, got {describe(value)}")
    return texts or None


def whole(model: str, answer: Answer) -> dict[str, Any]:
    """A chat completion."""
    return {
        **head(model, "chat.completion"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finish,
                "logprobs": None,
            }
        ],
        "usage": usage(answer),
    }


def streamed(
    model: str, pieces: Iterable[str | Answer], with_usage: bool
) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed chat completion."""
    shared = head(model, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces:
        if isinstance(piece, str):
            yield chunk({"content": piece})
            continue
        yield chunk({}, piece.finish)
        if with_usage:
            yield {**shared, "choices": [], "usage": usage(piece)}


def head(model: str, kind: str) -> dict[str, Any]:
    """What all answers begin with."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def usage(answer: Answer) -> dict[str, int]:
    """Tokens of question and answer."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
    }


def error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> Any:
    """An error as the clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
