"""Languages of texts, as a program of its own: groups of texts as JSON on stdin, what py3langid
says of them as JSON on stdout. Its model takes a second to load, which so runs beside other checks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

JOINED_CHARACTERS = 40_000
"""Of a group's texts joined, which tell its main language."""
FEWEST_LETTERS = 15
"""Shorter texts say too little to differ from the rest."""
FEWEST_WORDS = 8
"""Different words of a group of texts, likewise."""
NO_LANGUAGE = "zxx"
"""What py3langid calls code, numbers and the like."""
CLEARLY = 40.0
"""By how much (natural logarithm of a likelihood ratio) another language must explain a text better
than the main one before the text counts as one of that language. Plain sentences of five words
differ by 55 and more; English diagnoses full of Latin words come to 35.
"""


def main_languages(identifier: Any, groups: dict[str, list[str]]) -> dict[str, str]:
    """The main language of each group: that of the largest one, unless another clearly explains the
    group's texts better.
    """
    joined = {}
    for name, texts in groups.items():
        stride = 1 + sum(map(len, texts)) // JOINED_CHARACTERS
        joined[name] = "\n".join(texts[::stride])
    usual = ""
    if groups:
        largest = max(groups, key=lambda name: (len(groups[name]), name))
        usual, _ = identifier.classify(joined[largest])
    main = {}
    for name, text in joined.items():
        ranked = identifier.rank(text)
        language, score = ranked[0]
        clear = score - dict(ranked)[usual] >= CLEARLY and language != NO_LANGUAGE
        words = {word for word in text.split() if word.isalpha()}
        main[name] = language if clear and len(words) >= FEWEST_WORDS else usual
    return main


def others(identifier: Any, texts: Sequence[str], main: str) -> list[tuple[int, str]]:
    """The texts that clearly are of another language than `main`, as (index, language)."""
    different: list[tuple[int, str]] = []
    if main == NO_LANGUAGE:
        return different
    for index, text in enumerate(texts):
        if letters(text) < FEWEST_LETTERS:
            continue
        ranked = identifier.rank(text)
        language, score = ranked[0]
        if language not in (main, NO_LANGUAGE) and score - dict(ranked)[main] >= CLEARLY:
            different.append((index, language))
    return different


def letters(text: str) -> int:
    """How many letters a text has."""
    return sum(map(str.isalpha, text))


@cache
def model() -> Any:
    """py3langid's model of 130 languages."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def run(groups: dict[str, list[str]]) -> dict[str, tuple[str, list[tuple[int, str]]]]:
    """The main language of each group, and its texts in others."""
    identifier = model()
    main = main_languages(identifier, groups)
    return {
        name: (main[name], others(identifier, texts, main[name])) for name, texts in groups.items()
    }


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
