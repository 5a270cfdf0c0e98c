"""When two prompts are equal: the form in which they are compared."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def context_key(messages: Sequence[dict[str, Any]], tools: Any = None) -> str:
    """All that the model sees before an answer, in the form in which two prompts are compared: who
    says what, which functions there are.

    A single message from the user is the same prompt as its bare text.
    """
    if (
        len(messages) == 1
        and not tools
        and messages[0].keys() == {"role", "content"}
        and messages[0]["role"] == "user"
    ):
        return normalise(messages[0]["content"])
    turns = [turn_key(message) for message in messages]
    return json.dumps(
        [*turns, normalised(tools)] if tools else turns, ensure_ascii=False, sort_keys=True
    )


def turn_key(message: dict[str, Any]) -> Any:
    """What one message says, in that form; calls of functions and other fields are part of it."""
    fields = {
        name: value for name, value in message.items() if name not in ("role", "content") and value
    }
    text = (
        normalise_again(message["content"])
        if message["role"] == "system"
        else normalise(message.get("content") or "")
    )
    return [message["role"], text, normalised(fields)] if fields else [message["role"], text]


def normalised(value: Any) -> Any:
    """A nested value with each text in it normalised, and without what is null: Parquet fills up
    with nulls.
    """
    if isinstance(value, dict):
        return {name: normalised(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [normalised(inner) for inner in value]
    return normalise(value) if isinstance(value, str) else value


def normalise(text: str) -> str:
    """Case folded, with each run of white space as one space. Punctuation stays: "2 + 2" and "2 -
    2" are two prompts.

    Characters that only look or weigh differently are one (Unicode's NFKC), and those that nobody
    sees are none.
    """
    if not text.isascii():
        text = "".join(
            letter
            for letter in unicodedata.normalize("NFKC", text)
            if unicodedata.category(letter) != "Cf"
        )
    return " ".join(text.casefold().split())


@lru_cache(maxsize=64)
def normalise_again(text: str) -> str:
    """`normalise` of a text that many rows have in common."""
    return normalise(text)
