"""What of an answer is taken from the prompt: the texts that must stay when the prompt is
rewritten.
"""

from __future__ import annotations

import re
from typing import Any

from jobs.evaluation.json_answers import parse

SHORTEST = 2
"""Characters of a value that is looked for; a single digit counts too."""
WORDS = re.compile(r"\w+")


def values_of(answer: str, question: str) -> list[str]:
    """The values of an answer that stand in its question, whatever the case; an answer that is no
    JSON is one value.
    """
    parsed = parse(answer)
    structured = parsed is not None and isinstance(parsed[0], dict | list)
    values = leaves_of(parsed[0]) if parsed is not None and structured else [answer]
    fitting = [value for value in values if is_long_enough(value) and stands_in(value, question)]
    return list(dict.fromkeys(fitting))


def is_long_enough(value: str) -> bool:
    """Whether a value says something where it stands."""
    return len(value) >= SHORTEST or value.isdigit()


def stands_in(value: str, text: str) -> bool:
    """Whether a value's words stand in a text one after the other, as words."""
    words = " ".join(WORDS.findall(value.casefold()))
    return bool(words) and f" {words} " in f" {' '.join(WORDS.findall(text.casefold()))} "


def leaves_of(value: Any) -> list[str]:
    """The texts and numbers in a JSON value."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves_of(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves_of(inner)]
    if isinstance(value, bool) or value is None:
        return []
    return [str(value)]


def share_in(answer: str, text: str) -> float:
    """Share of an answer's words that stand in a text."""
    words = WORDS.findall(answer.casefold())
    text_words = set(WORDS.findall(text.casefold()))
    return sum(word in text_words for word in words) / len(words) if words else 0.0
