"""What is said to a candidate that did not become champion."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.evaluation.hints import Findings, hints

CALM = Findings(
    score=0.9,
    steps=100,
    longer="train.steps=200",
    best_step=50,
    history={50: 0.9, 100: 0.8},
    metric="valid/accuracy",
    training_answers=["yes", "no"] * 500,
    test_answers=["yes", "no"] * 10,
    weights={"train": 1.0},
    searched_weights=False,
    nearest_hold=0.5,
)

MANY = [f"code {number}" for number in range(20)] * 50


@pytest.mark.parametrize(
    "changes",
    [
        {"training_answers": ["yes", "no"] * 500},
        {"training_answers": MANY, "metric": "valid/cost"},
        {"training_answers": MANY, "metric": "valid/loss"},
    ],
)
def test_that_a_few_answers_hold_the_right_one_is_no_hint(changes: dict[str, object]) -> None:
    said = hints(dataclasses.replace(CALM, nearest_hold=1.0, **changes))  # type: ignore[arg-type]
    assert not any("neighbours" in hint for hint in said)


def test_where_every_row_is_right_nothing_helps() -> None:
    (only,) = hints(dataclasses.replace(CALM, score=1.0, training_answers=["yes"] * 10))
    assert only.startswith("nothing on these rows")
    assert "nothing" not in hints(dataclasses.replace(CALM, score=1.0, metric="valid/loss"))[0]


@pytest.mark.parametrize(
    ("metric", "other", "counts_as_wrong"),
    [
        ("valid/accuracy", "cafe\u0301", True),
        ("valid/accuracy", "Caf\u00e9", False),
        ("valid/exact_match", "Caf\u00e9", True),
    ],
)
def test_a_label_in_another_form_is_told_as_that_where_it_counts_as_wrong(
    metric: str, other: str, counts_as_wrong: bool
) -> None:
    findings = dataclasses.replace(
        CALM,
        metric=metric,
        training_answers=["caf\u00e9", "tea"] * 500,
        test_answers=["tea", other] * 10,
    )
    (hint,) = hints(findings)
    assert "more rows: 10" not in hint
    told = "one spelling of each label: 10 of the test rows"
    assert hint.startswith(told) == counts_as_wrong


def test_without_a_finding_the_usual_remedies_are_named() -> None:
    (only,) = hints(CALM)
    assert "train.steps=200" in only and "larger model=" in only


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nearest_hold": 0.95, "training_answers": MANY}, "in 95% of the test rows"),
        ({"best_step": 100, "history": {50: 0.5, 100: 0.8}}, "train.steps=200"),
        ({"best_step": 50, "history": {25: 0.5, 50: 0.8}}, "more steps: training ended at step 50"),
        ({"test_answers": ["yes", "maybe"] * 10}, "10 of the test rows have an answer that no"),
        ({"training_answers": ["yes", "no"] * 10}, "10.0 training rows for each different answer"),
        (
            {"training_answers": [f"text {n}" for n in range(90)], "test_answers": ["text 1"]},
            "there are 90 training rows",
        ),
        ({"weights": {"a": 0.5, "b": 0.5}}, "data.sources.a.weight, data.sources.b.weight"),
        (
            {"weights": {"a": 0.9, "b": 0.1}, "searched_weights": True},
            "90% of what the winner saw is a",
        ),
    ],
)
def test_each_finding_has_its_remedy(changes: dict[str, object], told: str) -> None:
    said = hints(dataclasses.replace(CALM, **changes))  # type: ignore[arg-type]
    assert told in said[0], said


def test_a_winner_that_got_worse_is_not_told_to_take_more_steps() -> None:
    said = hints(dataclasses.replace(CALM, best_step=100, history={50: 0.9, 100: 0.9}))
    assert not any("was best at its last one" in hint for hint in said)
