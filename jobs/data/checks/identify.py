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
CLEARLY = 40.0
"""By how much (natural logarithm of a likelihood ratio) another language must explain a text better
than the main one before the text counts as one of that language. Plain sentences of five words
differ by 55 and more; English diagnoses full of Latin words come to 35.
"""


def languages(identifier: Any, texts: Sequence[str]) -> tuple[str, list[tuple[int, str]]]:
    """The main language of some texts, and those that clearly are of another, as (index,
    language).
    """
    stride = 1 + sum(map(len, texts)) // JOINED_CHARACTERS
    main, _ = identifier.classify("\n".join(texts[::stride]))
    others = []
    for index, text in enumerate(texts):
        if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
            continue
        ranked = identifier.rank(text)
        language, score = ranked[0]
        if language != main and score - dict(ranked)[main] >= CLEARLY:
            others.append((index, language))
    return main, others


@cache
def model() -> Any:
    """py3langid's model of 130 languages."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def run(groups: dict[str, list[str]]) -> dict[str, tuple[str, list[tuple[int, str]]]]:
    """The languages of each group."""
    identifier = model()
    return {name: languages(identifier, texts) for name, texts in groups.items()}


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
