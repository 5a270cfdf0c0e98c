"""Answers that say the same in another form are named, and those that only look so are not."""

from __future__ import annotations

from collections import Counter

import pytest

from jobs.data.answer_forms import notes


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (
            {'{"a": 1, "b": 2}': 5, '{"b": 2, "a": 1}': 3, '{"a": 1, "b": 3}': 1},
            "train: 3 of 9 answers are the JSON of another one with its keys in another order",
        ),
        ({"food, travel": 4, "travel,food": 2, "food": 1}, "train: 2 of 7 answers are the parts"),
        ({"a; b | c": 2, "C, b, a": 2}, "train: 2 of 4 answers are the parts"),
        ({" yes": 9, "no": 2}, "train: 9 of 11 answers begin or end with white space"),
        ({"no\n": 1}, 'such as "no\\n"; data.columns.prompt=COLUMN data.columns.completion='),
    ],
)
def test_another_form_of_the_same_answer_is_told(answers: dict[str, int], told: str) -> None:
    (said,) = notes(Counter(answers))
    assert told in said


@pytest.mark.parametrize(
    "answers",
    [
        {'{"a": 1, "b": 2}': 5, '{"a":1,"b":2}': 5},
        {'{"a": 1, "b": 2}': 5, '{"b": 2, "a": 1}': 1},
        {'{"a": [1, 2]}': 5, '{"a": [2, 1]}': 5, '{"a": 1,': 3},
        {"Food, travel": 5, "food,travel": 5},
        {"Yes, I do.": 5, "I do. Yes, of course, " * 9: 5},
        {"[1, 2]": 5, "[2, 1]": 5},
        {"yes": 3, "no": 2},
    ],
)
def test_what_differs_otherwise_is_no_other_form(answers: dict[str, int]) -> None:
    assert not [said for said in notes(Counter(answers)) if "another order" in said]
