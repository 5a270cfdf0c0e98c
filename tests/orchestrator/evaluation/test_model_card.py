"""The description that MLflow shows of a version: the card with the decision, at most as long as it
takes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.evaluation import model_card
from orchestrator.evaluation.promotion import Scores

REASONS = ("it does not beat the champion: 0.2 against 0.3", "its 0.2 does not reach the floor")


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_each_reason_is_an_entry_of_a_list_also_where_the_card_is_cut(length: int) -> None:
    text = model_card.description("x" * length, False, REASONS)
    assert len(text) <= max(model_card.LONGEST_DESCRIPTION, 200)
    ending = "It did not take the alias champion:\n\n" + "".join(f"- {r}\n" for r in REASONS)
    assert text.endswith(f"## Decision\n\n{ending}")
    assert ("cut; the whole card" in text) == (length > 1000)


@pytest.mark.parametrize(
    ("metric", "maximise", "shown", "first"),
    [
        ("test/exact_match", True, True, "a linear classifier"),
        ("test/chrf", True, False, "a linear classifier"),
        ("test/cost", False, False, "the most frequent answer"),
    ],
)
def test_the_best_baseline_is_first_and_a_smallest_difference_is_of_shares(
    metric: str, maximise: bool, shown: bool, first: str
) -> None:
    config = SimpleNamespace(
        job=SimpleNamespace(confidence=0.95),
        registry=SimpleNamespace(error_rate=0.05),
        sweep=SimpleNamespace(maximise=maximise),
    )
    plan: Any = SimpleNamespace(config=config, num_trials=3, num_valid=50)
    low, high = (Scores(value, value, value, 100, "digest", ()) for value in (0.2, 0.7))
    baselines = {"most_frequent": low, "linear_classifier": high}
    text = model_card.score_table(plan, high, low, baselines, (), metric)
    assert ("Smallest difference" in text) == shown
    rows = [line for line in text.splitlines() if "answer" in line or "linear" in line]
    assert first in rows[0] and len(rows) == 2
