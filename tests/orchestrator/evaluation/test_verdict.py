"""What a winner is compared with: lookups are scored by every metric that answers decide."""

from __future__ import annotations

import pytest

from jobs.evaluation import registry
from jobs.evaluation.baselines import NEAREST_PROMPT, Answers
from jobs.evaluation.scored_rows import MetricContext
from jobs.evaluation.scores import TestScores as Judged
from orchestrator.evaluation.verdict import baseline_scores, rivals_of

ROWS = [{"text": f"q{n}", "reference": "a b" if n % 4 else "c", "source": ""} for n in range(8)]
CONTEXT = MetricContext(labels=frozenset({"a b", "c"}), closed=True)


def judged(metric: str) -> Judged:
    """A candidate by a metric."""
    return Judged(0.5, 0.2, 0.8, ROWS, max_new_tokens=4, metric=metric)


@pytest.mark.parametrize(
    "metric", [name for name, metric in registry.METRICS.items() if metric.needs == "text"]
)
def test_a_lookup_is_scored_by_what_answers_decide(metric: str) -> None:
    answers = Answers({"test": {NEAREST_PROMPT: ["a b"] * 8}})
    scores = baseline_scores(answers, judged(metric), CONTEXT, "digest", 0.95)
    assert scores[NEAREST_PROMPT].rows == 8


def test_exact_match_which_a_pass_gives_a_model_too_is_one_of_them() -> None:
    answers = Answers({"test": {NEAREST_PROMPT: ["a b"] * 8, "short": ["a b"]}})
    scores = baseline_scores(answers, judged(registry.EXACT_MATCH), CONTEXT, "digest", 0.95)
    assert list(scores) == [NEAREST_PROMPT], "an answer for each row, or it is of other data"
    nearest = scores[NEAREST_PROMPT]
    assert nearest.value == 0.75
    assert nearest.low < 0.75 < nearest.high
    assert len(nearest.per_row) == 8


@pytest.mark.parametrize("metric", [registry.LOSS, registry.CALIBRATION_ERROR])
def test_what_only_a_model_has_no_lookup_is_scored_by(metric: str) -> None:
    answers = Answers({"test": {NEAREST_PROMPT: ["a b"] * 8}})
    assert baseline_scores(answers, judged(metric), CONTEXT, "digest", 0.95) == {}


@pytest.mark.parametrize(
    "metric",
    [
        registry.EXACT_MATCH,
        registry.FIELD_AGREEMENT,
        registry.CHRF,
        registry.ROUGE_L,
    ],
)
def test_free_text_has_the_nearest_row_as_a_rival(metric: str) -> None:
    answers = Answers({"test": {NEAREST_PROMPT: ["a b"] * 8}}, free_text=True)
    scores = baseline_scores(answers, judged(metric), MetricContext(), "digest", 0.95)
    base, nearest = rivals_of(scores[NEAREST_PROMPT], scores, maximise=True)
    assert (base.kind, nearest.kind) == ("base", "baselines")
    assert nearest.scores.value > 0.5


def test_a_lookup_is_no_rival_in_writing_valid_json() -> None:
    answers = Answers({"test": {NEAREST_PROMPT: ["{}"] * 8}}, free_text=True)
    judged_answers = judged(registry.JSON_VALID)
    assert baseline_scores(answers, judged_answers, MetricContext(), "digest", 0.95) == {}
