"""Languages of texts, as a program of its own: groups of texts as JSON on stdin, what py3langid
says of them as JSON on stdout. Its model takes a second to load, which so runs beside other checks.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

JOINED_CHARACTERS = 40_000
"""Of a group's texts joined, which tell its main language."""
FEWEST_LETTERS = 15
"""Shorter texts say too little to differ from the rest."""
FEWEST_WORDS = 8
"""Different words of a group of texts, likewise."""
NO_LANGUAGE = "zxx"
"""What py3langid calls code, numbers and the like."""
SEVERAL = "mul"
"""The main language of a group of texts in several scripts: it has none."""
LATIN = "Latin"
OTHER_NAMES = {
    **dict.fromkeys(("Cjk", "Hiragana", "Katakana", "Halfwidth"), "Chinese or Japanese"),
    "Hangul": "Korean",
    "Fullwidth": LATIN,
}
"""Scripts of one language by one name; others are called as Unicode calls them."""
SCRIPT_SHARE = 0.2
"""Share of a text's letters from which on another script than Latin is that of the text. Names and
terms in Latin letters stand in texts of all scripts.
"""
FEWEST_OF_SCRIPT = 2
SHARE_OF_SCRIPT = 0.05
"""How many texts of a group, and which share of those with letters, have another script than most
where the group is one of several scripts.
"""
CLEARLY = 40.0
"""By how much (natural logarithm of a likelihood ratio) another language must explain a text better
than the main one before the text counts as one of that language. Plain sentences of five words
differ by 55 and more; English diagnoses full of Latin words come to 35.
"""


def main_languages(identifier: Any, groups: dict[str, list[str]]) -> dict[str, str]:
    """The main language of each group: that of the largest one, unless another clearly explains the
    group's texts better. Groups in several scripts have none; they are left out.
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


def script_of(text: str) -> str:
    """The script of a text, an empty one where it has no letters."""
    if text.isascii():
        return LATIN if letters(text) else ""
    counts = Counter(script_of_letter(letter) for letter in text if letter.isalpha())
    foreign = Counter({script: count for script, count in counts.items() if script != LATIN})
    if foreign.total() >= SCRIPT_SHARE * counts.total() and foreign:
        return foreign.most_common(1)[0][0]
    return LATIN if counts else ""


@lru_cache(maxsize=65_536)
def script_of_letter(letter: str) -> str:
    """The script of a letter, which its name in Unicode begins with."""
    script = unicodedata.name(letter, "?").split()[0].capitalize()
    return OTHER_NAMES.get(script, script)


def scripts_of(texts: Sequence[str]) -> dict[str, list[int]]:
    """Which texts are of which script, as their indices, where a group is one of several scripts;
    else nothing.
    """
    found: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        if script := script_of(text):
            found.setdefault(script, []).append(index)
    total = sum(map(len, found.values()))
    fewest = max(FEWEST_OF_SCRIPT, SHARE_OF_SCRIPT * total)
    frequent = {script: rows for script, rows in found.items() if len(rows) >= fewest}
    return frequent if len(frequent) > 1 else {}


Languages = dict[str, tuple[str, list[tuple[int, str]], dict[str, list[int]]]]


def run(groups: dict[str, list[str]]) -> Languages:
    """The main language of each group, its texts in others, and those of each script where the
    group has several.
    """
    identifier = model()
    scripts = {name: scripts_of(texts) for name, texts in groups.items()}
    single = {name: texts for name, texts in groups.items() if not scripts[name]}
    main = main_languages(identifier, single)
    return {
        name: (main[name], others(identifier, texts, main[name]), {})
        if name in single
        else (SEVERAL, [], scripts[name])
        for name, texts in groups.items()
    }


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
