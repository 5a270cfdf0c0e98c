"""Conversations as other projects write them, as messages with `role` and `content`.

Owns what they call those who speak and what they say. What a message may hold is messages.py's.
"""

from __future__ import annotations

from jobs.data.messages import OTHER_NAMES, Malformed, describe, parsed, quote
from jobs.files.json_types import Json, JsonObject

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
"""What a column with a conversation is called."""
SPEAKERS = {
    **OTHER_NAMES,
    "user": "user",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "call",
}
"""What others call those who speak; "call" is an assistant that calls functions."""
FORMS = {"from": ("value", "content", "text"), "speaker": ("text", "value", "content")}
"""By the field that says who speaks: the fields that may say what."""


def names_of_turns(turns: list[Json]) -> str:
    """Of which form the messages of a list are: "role", "from", or "list" where it holds none."""
    first = turns[0] if turns else None
    if not isinstance(first, dict):
        return "list" if turns else "role"  # an empty conversation is told by the reader
    if "role" in first:
        return "role"
    return "from" if any(name in first for name in FORMS) else "list"


def looks_like_messages(kind: str) -> bool:
    """Whether a column of this kind holds messages."""
    return kind in ("role", "from")


def as_turns(turns: list[Json], column: str) -> list[Json]:
    """The messages of a list, each with role and content."""
    if names_of_turns(turns) != "from":
        return list(turns)
    return [as_message(turn, position, column) for position, turn in enumerate(turns, start=1)]


def as_message(turn: Json, position: int, column: str) -> JsonObject:
    """One turn that is written as from and value. Raises Malformed for one that is not."""
    if not isinstance(turn, dict):
        raise Malformed(
            f'turn {position} of "{column}" must be an object with from and value, got '
            f"{describe(turn)}"
        )
    who = next((name for name in FORMS if name in turn), None)
    what = next((name for name in FORMS.get(who or "", ()) if name in turn), None)
    if who is None or what is None:
        raise Malformed(
            f'turn {position} of "{column}" must have from and value; found {quote(turn)}'
        )
    speaker = str(turn[who])
    role = SPEAKERS.get(speaker.strip().lower())
    if role is None:
        raise Malformed(
            f'turn {position} of "{column}" is from "{speaker}"; known are {", ".join(SPEAKERS)}'
        )
    if role == "call":
        calls = parsed(turn[what], f'the function call in turn {position} of "{column}"')
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": calls if isinstance(calls, list) else [calls],
        }
    others = {
        name: value for name, value in turn.items() if name not in (who, what) and value is not None
    }
    return {"role": role, "content": turn[what], **others}


def turns_of_pair(prompt: Json, answer: list[Json], column: str) -> list[Json]:
    """A prompt, which may be a text or messages, and the messages of its answer."""
    if isinstance(prompt, list):
        return [*as_turns(prompt, column), *answer]
    return [{"role": "user", "content": prompt}, *answer]


def without_trailing(turns: Json) -> Json:
    """Messages without what follows the last answer, where there is an answer."""
    if not isinstance(turns, list):
        return turns
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    if "assistant" not in roles:
        return turns
    last = max(index for index, role in enumerate(roles) if role == "assistant")
    return turns[: last + 1]
