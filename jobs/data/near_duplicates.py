"""Near-twins: held-out rows of which nearly the same is trained on, in other letters, marks or
order.

Owns what counts as nearly the same. They are named in the plan and not dropped; equal prompts are,
in data.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from jobs.data.minhash import MinHashIndex
from jobs.data.readers import Row

SIGNS = r"[+*/=<>^%&|~$€£#@\\]|-(?=\s*\d)"
"""Signs that make another question of the same words: 2 + 2 is not 2 - 2."""
ASCII_WORDS = re.compile(rf"\w+|{SIGNS}")
WORDS = rf"[\p{{L}}\p{{N}}_][\p{{L}}\p{{N}}\p{{M}}_]*|{SIGNS}"
"""Words of any script: the vowel signs of Hindi and Thai belong to them."""
MARKS = r"[\p{M}\u200C\u200D]+"
"""Marks, and joiners, which are between letters as marks are."""
DRAWN = r"[\u200C\u200D\uFE00-\uFE0F\U000E0100-\U000E01EF]|\p{Me}"
"""Of these, what says how a sign is drawn."""
ACCENTED = re.compile("[\u0041-\u077f\u1e00-\u1fff]")
"""Letters that are written without their marks too: Latin, Greek, Cyrillic, Armenian, Hebrew,
Arabic. Elsewhere a mark makes another letter.
"""
ALIKE = 0.85
"""Share of their words (Jaccard, 1901) that two longer prompts with the same answer must have in
common.
"""
FEWEST_WORDS = 12
"""Shorter prompts that differ in a word are two questions."""
ROWS_AT_ONCE = 4096
"""Training rows that are looked up together."""
FEWEST_ROWS = 8
"""From so many held-out rows on, words that stand in half of them are a form that all prompts have,
and say nothing of one.
"""
SHOWN = 70


@dataclass(frozen=True)
class Twin:
    """A held-out row and a training row that is nearly the same."""

    held_out: Row
    trained: Row


def twins_of(held_out: list[Row], trained: Iterable[Row]) -> list[Twin]:
    """For each held-out row that has a near-twin among the training rows, the first one."""
    twins: dict[int, Twin] = {}
    for index, row in twin_pairs(held_out, trained):
        twins.setdefault(index, Twin(held_out[index], row))
    return [twins[index] for index in sorted(twins)]


def twin_pairs(held_out: list[Row], trained: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """Index of a held-out row and a training row that is its near-twin, for each such pair.

    Two rows are near-twins when their prompts hold the same words one after the other, whatever the
    case, accents and punctuation; or when they have the same answer and hold the same words in
    another order, or, where there are many, nearly the same words and the same numbers. Which
    prompts may hold nearly the same words MinHash says; the candidates are then compared word by
    word.
    """
    asked = [words_of(row) for row in held_out]
    form = form_of(asked)
    asked_words = [set(words) - form for words in asked]
    in_order: dict[tuple[str, ...], list[int]] = {}
    in_any: dict[tuple[str, ...], list[int]] = {}
    for index, words in enumerate(asked):
        in_order.setdefault(tuple(words), []).append(index)
        in_any.setdefault(tuple(sorted(words)), []).append(index)
    long = [index for index, words in enumerate(asked_words) if len(words) >= FEWEST_WORDS]
    near = MinHashIndex([asked_words[index] for index in long], ALIKE)
    remaining = iter(trained)
    while rows := list(islice(remaining, ROWS_AT_ONCE)):
        words_by_row = [words_of(row) for row in rows]
        sets = [set(words) - form if long else set() for words in words_by_row]
        alike_words = near.candidates(sets)
        for row, words, row_words, maybe in zip(rows, words_by_row, sets, alike_words, strict=True):
            if not words:  # signs alone, which say nothing of each other
                continue
            candidates = list(in_order.get(tuple(words), ()))
            candidates += [
                n for n in in_any.get(tuple(sorted(words)), ()) if same_answer(held_out[n], row)
            ]
            candidates += [
                long[n]
                for n in maybe
                if alike(row_words, asked_words[long[n]]) and same_answer(held_out[long[n]], row)
            ]
            yield from ((index, row) for index in candidates)


def form_of(rows: Sequence[Sequence[str]]) -> frozenset[str]:
    """The words that most of the rows have, which say nothing of one."""
    counts = Counter(word for words in rows for word in set(words))
    many = len(rows) >= FEWEST_ROWS
    return frozenset(word for word, count in counts.items() if many and 2 * count > len(rows))


def nearly_same(
    left: Sequence[str], right: Sequence[str], same: bool, form: frozenset[str] = frozenset()
) -> bool:
    """Whether two training rows with these words are near-twins; `same` says that their answers
    are the same, `form` are words that all rows have.
    """
    if list(left) == list(right):
        return True
    if not same:
        return False
    if len(left) == len(right) and sorted(left) == sorted(right):
        return True
    if min(len(left), len(right)) < FEWEST_WORDS:
        return False
    own, other = set(left) - form, set(right) - form
    return min(len(own), len(other)) >= FEWEST_WORDS and alike(own, other)


def words_of(row: Row) -> list[str]:
    """The words of all that the model sees before the answer; the key is the same for the same
    prompt and lacks the instruction.
    """
    return words_in(row.key)


def words_in(text: str) -> list[str]:
    """The words of a text, without the accents that may be left out."""
    return found(text if text.isascii() else unaccented(text))


def unaccented(text: str) -> str:
    """A text in single letters and marks (Unicode's NFKD), without those that are left out."""
    letters = unicodedata.normalize("NFKD", text)
    return unicode_pattern(MARKS).sub(kept_marks, letters)


def kept_marks(marks: Any) -> str:
    """Of the marks after a letter, a match of MARKS, those that make it another one."""
    before = marks.string[max(marks.start() - 1, 0) : marks.start()]
    if ACCENTED.fullmatch(before):
        return ""
    return unicode_pattern(DRAWN).sub("", marks.group())


def found(text: str) -> list[str]:
    """The words of a text as it stands."""
    return (ASCII_WORDS if text.isascii() else unicode_pattern(WORDS)).findall(text)


@lru_cache(maxsize=3)
def unicode_pattern(pattern: str) -> Any:
    """A pattern that names classes of Unicode's letters, which `re` does not know."""
    import regex

    return regex.compile(pattern)


def alike(left: set[str], right: set[str]) -> bool:
    """Whether two sets of words are nearly the same, and differ in no number: another number is
    another question.
    """
    shared = len(left & right)
    if shared < ALIKE * (len(left) + len(right) - shared):
        return False
    return not any(character.isdigit() for word in left ^ right for character in word)


def same_answer(left: Row, right: Row) -> bool:
    """Whether two answers hold the same words."""
    return found(left.answer.casefold()) == found(right.answer.casefold())


def notes_of(split: str, rows: Sequence[Row], twins: Sequence[Twin]) -> list[str]:
    """That some rows of a split have near-twins that are trained on, with the first of them."""
    if not twins:
        return []
    first = twins[0]
    example = (
        f"{shown(first.held_out)} ({place(first.held_out)}) and {shown(first.trained)} "
        f"({place(first.trained)})"
    )
    return [
        f"{split}: {len(twins):,} of {len(rows):,} rows have a near-twin that is trained on, such "
        f"as {example}"
    ]


def shown(row: Row) -> str:
    """The beginning of what is asked, on one line, without the instruction."""
    text = " ".join(str(row.context[-1].get("content") or "").split())
    if not row.key.startswith("["):  # a bare prompt, of which the key is the same text
        text = text[-len(row.key) :]
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def place(row: Row) -> str:
    """Where a row stands, without the folders."""
    return row.place.rpartition("/")[2]
