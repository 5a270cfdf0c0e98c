"""Held-out rows whose near-twin is trained on are found, in any spelling and order, and rows that
ask something else are not.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.checks import leakage
from jobs.data.corpus import load_corpus
from jobs.data.near_duplicates import twins_of, words_in
from jobs.data.readers import Row, normalise

LONG = "The customer writes that the lamp which she ordered for her daughter arrived broken and wants her money back"


def make(prompt: str, answer: str = "refund") -> Row:
    return Row(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}),
        normalise(prompt),
        "rows.jsonl, line 1",
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The lamp arrived, broken!", "the lamp arrived broken"),
        ("Ménière's disease", "Menieres disease".replace("s ", "'s ")),
        ("If it rains, stay in.", "Stay in if it rains"),
        ("ﬁne-grained “quotes”", 'fine grained "quotes"'),
        ("Straße  nass", "STRASSE\tnass."),
        (LONG, LONG.replace("broken", "smashed")),
        (LONG, "Dear all: " + LONG),
    ],
)
def test_a_near_twin_is_found(one: str, other: str) -> None:
    others = [make(f"Another question about number {number}") for number in range(50)]
    (twin,) = twins_of([make(one), make("Something else entirely")], [*others, make(other)])
    assert (twin.held_out.key, twin.trained.key) == (normalise(one), normalise(other))
    assert len(twins_of([make(other)], [*others, make(one)])) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "What is 2 - 2?"),
        ("The lamp arrived broken", "The chair arrived broken"),
        ("Ticket 12: it broke", "Ticket 13: it broke"),
        (f"{LONG} 12", f"{LONG} 13"),
        (LONG, LONG.replace("broken", "late").replace("lamp", "kettle").replace("daughter", "son")),
    ],
)
def test_another_question_is_no_twin(one: str, other: str) -> None:
    assert twins_of([make(one)], [make(other)]) == []


def test_words_in_another_order_are_a_twin_only_with_the_same_answer() -> None:
    assert twins_of([make("dog bites man", "a")], [make("man bites dog", "b")]) == []
    assert twins_of([make(LONG, "a")], [make(LONG.replace("broken", "smashed"), "b")]) == []
    assert len(twins_of([make("Dog bites man!", "a")], [make("dog bites man", "b")])) == 1


def test_a_form_that_all_prompts_have_makes_no_twins() -> None:
    form = "Sort the following ticket of our web shop into refund, wait, replace or thanks, and answer with one word only:"
    things = [
        f"{thing} {state}"
        for thing in ("lamp", "chair", "phone", "bike")
        for state in ("broke", "is late", "hums", "shines")
    ]
    assert (
        twins_of(
            [make(f"{form} {thing}") for thing in things[::2]],
            [make(f"{form} {thing}") for thing in things[1::2]],
        )
        == []
    )


def test_the_plan_names_how_many_and_one_of_them(tmp_path: Path) -> None:
    rows = [
        f"Case {number} of {word}"
        for number, word in enumerate(["flu", "gout", "acne", "asthma"] * 10)
    ]
    files = {
        "train": rows[:20],
        "valid": [*rows[20:30], "case 3: of asthma"],
        "test": [*rows[30:], "Case 4, of flu.", "Of gout: case 5"],
    }
    for name, prompts in files.items():
        lines = [json.dumps({"prompt": prompt, "completion": "A"}) for prompt in prompts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    first, second = leakage.check(load_corpus(Data(name="x", folder=str(tmp_path)))).warnings
    expected = "valid: 1 of 11 rows have a near-twin that is trained on, such as 'case 3: of asthma' (valid.jsonl, line 11)"
    assert first == f"{expected} and 'Case 3 of asthma' (train.jsonl, line 4)"
    assert second.startswith(
        "test: 2 of 12 rows have a near-twin that is trained on, such as 'Case 4, of flu.' (test.jsonl, line 11)"
    )


def test_a_hundred_thousand_rows_are_compared_in_seconds() -> None:
    stream, vocabulary = random.Random(0), [f"word{number:x}" for number in range(3000)]
    rows = [make(" ".join(stream.choices(vocabulary, k=30))) for _ in range(100_000)]
    held = [make(row.key.replace(" ", ", ") + "!") for row in rows[:1000]] + [make("x " * 30)]
    began = time.perf_counter()
    assert len(twins_of(held, rows)) == 1000
    assert time.perf_counter() - began < 120


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("ビザの申請", "ピザの申請", False),
        ("वह क्या करता है", "वह क्या करती है", False),
        ("เขากินข้าว", "เขากันข้าว", False),
        ("बिल", "बाल", False),
        ("Crème brûlée?", "creme brulee", True),
        ("ёлка", "елка", True),
        ("שָׁלוֹם", "שלום", True),
        ("ビザ の 申請", "ビザ、の、申請", True),
        ("I love it ❤\ufe0f", "i love it", True),
        ("warm☀\ufe0fday", "warm day", True),
        ("1\ufe0f\u20e3 lamp", "1 lamp", True),
        ("\U0001f468\u200d\U0001f469 hello", "hello", True),
        ("می\u200cخواهم", "میخواهم", True),
    ],
)
def test_marks_tell_words_apart_where_they_make_another_letter(
    left: str, right: str, same: bool
) -> None:
    assert (words_in(normalise(left)) == words_in(normalise(right))) == same
