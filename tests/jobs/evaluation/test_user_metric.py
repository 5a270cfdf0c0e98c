"""A user's own function as a metric, and what sweep.metric=auto chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.config import Scoring
from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.evaluation.metric_choice import choose_metric, context_of, misfit
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import whole
from jobs.evaluation.user_metric import load_function, user_scorer

ROWS = [ScoredRow("p", "right", "right"), ScoredRow("p", "right", "wrong", source="web")]


def written(folder: Path, name: str, text: str) -> str:
    """A module of the user's; returns its function's name."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return f"{name}:score"


def test_one_number_or_one_per_row(tmp_path: Path) -> None:
    name = written(
        tmp_path,
        "by_row_metric",
        "def score(answers, references):\n"
        "    return [float(a == r) for a, r in zip(answers, references)]\n",
    )
    context = MetricContext(function=name, folder=str(tmp_path))
    measured = user_scorer(ROWS, context)
    assert whole(measured) == 0.5
    assert measured.value(np.array([0])) == 1
    name = written(
        tmp_path,
        "whole_metric",
        "def score(answers, references, rows):\n    return sum(r['source'] == 'web' for r in rows)\n",
    )
    measured = user_scorer(ROWS, MetricContext(function=name, folder=str(tmp_path)))
    assert whole(measured) == 1
    assert measured.value(np.array([0])) == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("raises_metric", "def score(a, r):\n    raise KeyError('colour')\n", "KeyError: 'colour'"),
        ("text_metric", "def score(a, r):\n    return 'good'\n", "returned str for 2 rows"),
        ("short_metric", "def score(a, r):\n    return [1.0]\n", "a list of 1 for 2 rows"),
        ("syntax_metric", "def score(a, r)\n", "cannot be imported: SyntaxError"),
        ("other_metric", "def scores(a, r):\n    return 1\n", "did you mean scores?"),
        ("import_metric", "import no_such_thing\n", "imports no_such_thing"),
        ("value_metric", "score = 3\n", "is a int, not a function"),
    ],
)
def test_what_is_wrong_with_a_function_is_told(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    function = written(tmp_path, name, text)
    with pytest.raises(ValueError, match="sweep.metric") as caught:
        user_scorer(ROWS, MetricContext(function=function, folder=str(tmp_path)))
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_module_that_is_not_there_is_told_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no module nowhere_metric in .*; write"):
        load_function("nowhere_metric:score", str(tmp_path))


EXACT = "valid/exact_match"


def row(number: int, answer: str) -> Row:
    """One row."""
    asked = {"role": "user", "content": f"asked {number}"}
    said = {"role": "assistant", "content": answer}
    return Row((asked, said), f"asked {number}", f"line {number}")


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["yes", "No "], "valid/accuracy"),
        ([f"{number}" for number in range(90)], EXACT),
        ([f"a long free answer of its own, of many words {n}" for n in range(90)], "valid/chrf"),
        ([f"He has {n} dogs." for n in range(90)], "valid/chrf"),
        ([f"አበበ {n} ውሻ ያያል።" for n in range(90)], "valid/chrf"),
        ([f"他有{n}只狗。" for n in range(90)], "valid/chrf"),
        ([f"S72.{n}" for n in range(90)], EXACT),
        ([f'{{"a": "of many words, {n}", "b": [1, 2, 3, 4]}}' for n in range(90)], EXACT),
    ],
)
def test_auto_chooses_by_the_answers(answers: list[str], metric: str) -> None:
    rows = [row(number, answers[number % len(answers)]) for number in range(90)]
    corpus = Corpus({"train": rows[:70]}, rows[70:80], rows[80:])
    chosen, reason = choose_metric(corpus)
    assert chosen == metric
    assert any(letter.isdigit() for letter in reason) or "JSON" in reason
    assert context_of(corpus, Scoring(metric=chosen)).closed == (len(answers) == 2)


@pytest.mark.parametrize("form", ["{}", "{}.5", "-1,{}", "{}%", "1,000,{:03d}.25"])
def test_that_answers_are_numbers_is_said(form: str) -> None:
    rows = [row(number, form.format(number)) for number in range(90)]
    corpus = Corpus({"train": rows[:70]}, rows[70:80], rows[80:])
    chosen, reason = choose_metric(corpus)
    assert chosen == EXACT and reason.startswith("10 of 10 answers are numbers")
    codes = [row(number, f"{100 + number % 60}") for number in range(900)]
    closed = Corpus({"train": codes[:700]}, codes[700:800], codes[800:])
    assert "numbers" not in choose_metric(closed)[1], "codes are labels"


def test_of_a_single_label_no_metric_says_more() -> None:
    one = [row(number, "yes") for number in range(90)]
    assert misfit("valid/accuracy", Corpus({"train": one[:70]}, one[70:80], one[80:])) is None
    two = [row(number, "yes" if number % 10 else "no") for number in range(90)]
    told = misfit("valid/accuracy", Corpus({"train": two[:70]}, two[70:80], two[80:]))
    assert told is not None and "macro_f1" in told
