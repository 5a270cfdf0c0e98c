"""Metrics that single applications ask for: facts of attributes, placeholders, and thresholds where
mistakes cost differently.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jobs.config import Data
from jobs.data.corpus import load_corpus
from jobs.data.readers import Row
from jobs.evaluation import thresholds
from jobs.evaluation.answer_scores import all_scorers, scorer
from jobs.evaluation.facts import attributes_of, facts_kept
from jobs.evaluation.label_metrics import CostMatrix
from jobs.evaluation.placeholders import has_placeholders, placeholders_of
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import whole

KETTLE = {"name": "Alder 3", "capacity": "1.2 l", "colour": "red"}
LAMP = {"name": "Ember 7", "power": "5 W", "colour": "green"}


def facts(answer: str, attributes: dict[str, object] = KETTLE) -> float:
    """The score of one text about a kettle, beside a right one about a lamp."""
    right = "The Ember 7 is green and draws 5 W."
    rows = [
        {"prompt": f"<|user|>Describe:\n{json.dumps(attributes)}<|end|>"},
        {"prompt": json.dumps(LAMP)},
    ]
    scores = facts_kept([answer, right], ["", right], rows)
    assert scores[1] == 1.0
    return scores[0]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("The red Alder 3 holds 1.2 l.", 1),
        ("the RED  alder 3 holds\n1.2 L", 1),
        ("The Alder 3 holds 1.2 l.", 0),  # no colour
        ("The red Alder 3 holds 1.2 l and weighs 900 g.", 0),  # a number of its own
        ("The red Alder 3 holds 1.2 l, also in green.", 0),  # another product's colour
        ("The red Alder 3 holds 11.2 l.", 0),  # 1.2 l is no part of 11.2 l
        ("The red Alder 31 holds 1.2 l.", 0),
        ("The redder Alder 3 holds 1.2 l.", 0),
        ("", 0),
    ],
)
def test_a_text_is_right_with_all_facts_and_no_other(answer: str, score: float) -> None:
    assert facts(answer) == score


def test_numbers_and_the_last_object_of_a_prompt_are_attributes() -> None:
    assert attributes_of('{"a": 1} and then {"b": {"c": 2}, "d": null}') == {
        "b": '{"c": 2}',
        "d": "null",
    }
    assert attributes_of("no attributes {at all") == {} and attributes_of("[1, 2] 3") == {}
    assert facts("Alder, 40 of them", {"name": "Alder", "count": 40}) == 1
    assert facts("anything without a number", {}) == 1


def test_placeholders_are_compared_whatever_their_order() -> None:
    assert placeholders_of("%(n)s of {total} in <b>%d</b>, 50% {x}{x}") == {
        "%(n)s": 1,
        "{total}": 1,
        "<b>": 1,
        "%d": 1,
        "</b>": 1,
        "{x}": 2,
    }
    pairs = [
        ("{b} und {a}", "{a} and {b}"),
        ("{a}", "{a} {a}"),
        ("plain", "plain words"),
        ("{a}", "none"),
    ]
    rows = [ScoredRow("", reference, answer) for answer, reference in pairs]
    assert whole(scorer("placeholders", rows, MetricContext())) == 0.5
    assert has_placeholders([row.wanted for row in rows])
    assert not has_placeholders([]) and not has_placeholders(["a", "1 < 2 and 3 > 2"])
    assert "placeholders" in all_scorers(None, rows, MetricContext(placeholders=True))
    assert "placeholders" not in all_scorers(None, rows, MetricContext())


COSTS = thresholds.costs_of(CostMatrix({"ham": {"spam": 10}, "spam": {"ham": 1}}), "spam", "ham")


def test_the_threshold_is_the_cheapest_on_the_validation_rows() -> None:
    probability = np.array([0.2, 0.6, 0.7, 0.95, 0.97])
    is_spam = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    threshold = thresholds.choose(probability, is_spam, COSTS)
    assert 0.7 < threshold <= 0.95
    assert thresholds.mean_cost(probability, is_spam, threshold, COSTS) == pytest.approx(1 / 5)
    assert thresholds.mean_cost(probability, is_spam, 0.5, COSTS) == pytest.approx(2.0)
    every = [
        thresholds.mean_cost(probability, is_spam, each, COSTS)
        for each in np.linspace(0, 1.01, 200)
    ]
    assert min(every) == pytest.approx(1 / 5)


def test_where_nothing_tells_the_labels_apart_the_cheaper_one_is_always_answered() -> None:
    probability, is_spam = np.full(10, 0.5), np.array([1.0] + [0.0] * 9)
    assert thresholds.choose(probability, is_spam, COSTS) > 0.5  # never spam
    assert thresholds.choose(probability, 1 - is_spam, COSTS.T[::-1, ::-1].copy()) is not None
    assert thresholds.trusted_threshold(COSTS) == pytest.approx(10 / 11)
    assert thresholds.trusted_threshold(np.zeros((2, 2))) == 0.5


def test_probabilities_that_can_be_trusted_have_no_calibration_error() -> None:
    is_spam = np.array([1.0] * 8 + [0.0] * 2)
    assert thresholds.calibration_error(np.full(10, 0.8), is_spam) == pytest.approx(0, abs=1e-12)
    assert thresholds.calibration_error(np.full(10, 1.0), is_spam) == pytest.approx(0.2)
    assert thresholds.calibration_error(np.full(10, 0.2), is_spam) == pytest.approx(0.6)


def test_labels_are_asked_as_training_rows_write_them(tmp_path: Path) -> None:
    for split, number in {"train": 12, "valid": 6, "test": 6}.items():
        rows = [
            {"prompt": f"{split} mail {i}", "completion": "Spam" if i % 3 == 0 else "ham"}
            for i in range(number)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = load_corpus(Data(name="mails", folder=str(tmp_path)))
    asked: list[str] = []

    def log_likelihoods(rows: list[Row]) -> np.ndarray:
        asked.extend(row.answer for row in rows)
        is_spam = [int(row.context[-1]["content"].split()[-1]) % 3 == 0 for row in rows]
        return np.array(
            [
                math.log(0.9 if (row.answer == "Spam") == spam else 0.1)
                for row, spam in zip(rows, is_spam, strict=True)
            ]
        )

    context = MetricContext(
        labels=frozenset(["spam", "ham"]),
        costs={"ham": {"spam": 10}, "spam": {"ham": 1}},
        closed=True,
    )
    assert thresholds.applies(context, corpus.test)
    told = thresholds.threshold_scores(corpus, context, log_likelihoods)
    assert set(asked) == {"Spam", "ham"} and told["label"] == "Spam"
    assert told["cost"] == told["valid_cost"] == 0 and told["valid_rows"] == 6
    assert told["calibration_error"] == pytest.approx(0.1) and told["brier"] == pytest.approx(0.01)
    assert not thresholds.applies(
        MetricContext(labels=frozenset("abc"), costs=context.costs), corpus.test
    )
    assert not thresholds.applies(MetricContext(labels=context.labels), corpus.test)
