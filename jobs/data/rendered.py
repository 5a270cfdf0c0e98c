"""A row as text: what the model is given, and what it must write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from jobs.data.chat_template import PROBES


@dataclass(frozen=True)
class Around:
    """What a template writes about the answers to conversations of one shape."""

    lead: str
    """Before the answer, but after the prompt."""
    ending: str
    """After it."""


@dataclass(frozen=True)
class Rendered:
    """One row as text."""

    prompt: str
    answer: str
    """What the model must write after the prompt, the end of its turn included."""
    reference: str
    """The answer alone, without white space around it: what a decoded answer is compared with."""
    mark: str = ""
    """What a decoded answer may have before the answer proper, such as the end of a reasoning."""
    unused: tuple[str, ...] = ()
    """Fields of messages that the template does not use, and contents that it changes, in words."""

    def matches(self, answer: str) -> bool:
        """Whether a decoded answer is right; what stands before a mark need not be the same."""
        return matches(answer, self.reference, self.mark)


def matches(answer: str, reference: str, mark: str) -> bool:
    """Whether a decoded answer says what it should, where each may have something before a mark
    that does not count.
    """
    return final_answer(answer, mark) == final_answer(reference, mark)


def final_answer(text: str, mark: str) -> str:
    """An answer without what stands before its mark, such as a reasoning."""
    return text.rpartition(mark)[2].strip() if mark else text


def squeezed(text: str) -> str:
    """A text without white space."""
    return "".join(text.split())


def shown(text: str) -> str:
    """A text between quotes, for a message."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)


def each_probed(messages: Sequence[dict[str, Any]], positions: Set[int]) -> list[dict[str, Any]]:
    """Messages of which those at some positions say something that no other says."""
    return [
        one | {"content": f"{PROBES[0]}{index:07d}"} if index in positions else one
        for index, one in enumerate(messages)
    ]


def probed_in(text: str) -> set[int]:
    """The positions of the probed messages that a rendering shows, in small letters or large."""
    found = re.findall(rf"{PROBES[0]}(\d{{7}})", text, re.IGNORECASE)
    return {int(digits) for digits in found}


def holds_each(text: str, parts: Iterable[str]) -> bool:
    """Whether a text holds each of some others. Where they stand in their order it is read once,
    however many they are.
    """
    position = 0
    for part in parts:
        start = text.find(part, position)
        if start < 0 and part not in text:
            return False
        position = max(position, start)
    return True
