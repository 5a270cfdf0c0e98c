"""What a winner is compared with: lookups are scored by every metric that answers decide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.config import Scoring
from jobs.data.corpus import Corpus
from jobs.evaluation import registry
from jobs.evaluation.answer_scores import confidence_interval
from jobs.evaluation.baselines import NEAREST_PROMPT, Answers
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import drawn_of, whole
from jobs.evaluation.scores import TestScores as Judged
from jobs.evaluation.user_metric import WholeScorer
from jobs.export.model_folder import scoring_of
from jobs.export.shipped_scores import context_of_version, difference_of, scores_of
from orchestrator.evaluation.promotion import Scores, chance
from orchestrator.evaluation.verdict import baseline_scores, rivals_of, scorer_of, with_samples
from orchestrator.output.shipped_text import interval_of

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


def test_a_users_function_sees_the_columns_of_a_baselines_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "by_language.py").write_text(
        "def score(answers, references, rows):\n"
        "    return [float(row['language'] == 'de') for row in rows]\n",
        encoding="utf-8",
    )
    rows = [row | {"columns": {"language": "de" if n < 2 else "en"}} for n, row in enumerate(ROWS)]
    name = "by_language:score"
    candidate = Judged(0.5, 0.2, 0.8, rows, max_new_tokens=4, metric=name)
    context = MetricContext(function=name, folder=str(tmp_path))
    answers = Answers({"test": {NEAREST_PROMPT: ["a b"] * 8}})
    scores = baseline_scores(answers, candidate, context, "digest", 0.95)
    assert scores[NEAREST_PROMPT].value == 0.25


def test_a_baselines_answer_is_compared_without_the_reasoning_before_it() -> None:
    rows = [
        {"text": "q", "reference": f"because {n}</think>yes", "mark": "</think>"} for n in range(8)
    ]
    candidate = Judged(0.5, 0.2, 0.8, rows, max_new_tokens=4, metric=registry.EXACT_MATCH)
    answers = Answers({"test": {NEAREST_PROMPT: ["so be it</think>yes"] * 8}})
    scores = baseline_scores(answers, candidate, MetricContext(), "digest", 0.95)
    assert scores[NEAREST_PROMPT].value == 1.0


def test_a_version_tells_what_mistakes_cost_so_that_its_files_are_judged_alike(
    tmp_path: Path,
) -> None:
    costs = {"ham": {"spam": 10.0}, "spam": {"*": 1.0}}
    candidate = Judged(0.5, 0.2, 0.8, ROWS, max_new_tokens=4, metric=registry.COST)
    corpus = Corpus({"train": []}, [], [])
    told = scoring_of(candidate, corpus, Scoring(costs=costs, folder=str(tmp_path)))
    context = context_of_version({"scoring": told}, [{"reference": "ham"}])
    assert (context.costs, context.folder) == (costs, str(tmp_path))
    rows = [{"text": "q", "reference": "ham", "prediction": "ham"}]
    shipped = scores_of(rows, ["spam"], {"scoring": told}, 0.95)
    assert shipped.value == 10.0


@pytest.mark.parametrize("metric", [registry.CHRF, registry.MACRO_F1, registry.EXACT_MATCH])
def test_the_interval_of_a_files_loss_holds_the_loss_and_narrows_to_it(metric: str) -> None:
    """Few long answers are lost, many short ones won: means over rows have another sign."""
    labels = metric == registry.MACRO_F1
    long = ["a long answer of many words that is said right"] * 10
    wanted = ["yes", "no"] * 30 if labels else [*long, *["yes"] * 50]
    trained = wanted[:10] + ["x"] * 50 if not labels else ["yes", *wanted[1:]]
    shipped = ["x"] * 10 + wanted[10:] if not labels else ["no", *wanted[1:]]
    rows = [
        {"text": "q", "reference": one, "prediction": said}
        for one, said in zip(wanted, trained, strict=True)
    ]
    told = {"scoring": {"metric": metric, "labels": ["yes", "no"] if labels else None}}
    found = scores_of(rows, shipped, told, 0.95)
    assert found.difference_low is not None and found.difference_high is not None
    assert found.difference_low <= found.difference <= found.difference_high
    assert found.difference_low < found.difference_high
    same = scores_of(rows, trained, told, 0.95)
    assert same.difference == 0 and same.p_value == 1.0
    if metric == registry.CHRF:
        assert found.difference_high < 0 and found.p_value is not None and found.p_value < 0.01


def test_a_function_that_is_too_slow_to_be_asked_again_has_no_interval_of_the_loss() -> None:
    def slow(answers: list[str], references: list[str]) -> float:
        return float(answers[0] == references[0])

    rows = [ScoredRow("q", "a", "a") for _ in range(4)]
    one, other = (WholeScorer("slow", slow, rows, score) for score in (1.0, 0.5))
    one.seconds = other.seconds = 100.0
    assert difference_of(one, other, True, 0.95) == (None, None, None)
    report = {"scores": {"difference": 0.1, "difference_low": None, "difference_high": None}}
    assert interval_of(report["scores"]) == ""


def test_a_champion_of_before_is_compared_on_the_same_samples_of_the_rows() -> None:
    """The candidate is right where the champion is, and on six rows more, which the intervals of
    both cannot show.
    """
    rows = [{"text": f"q{n}", "reference": "ab"[n % 2]} for n in range(200)]
    before = ["a" if n % 5 == 0 else "ab"[n % 2] for n in range(200)]
    after = ["ab"[n % 2] if n < 60 else before[n] for n in range(200)]
    context = MetricContext(labels=frozenset("ab"), closed=True)
    candidate = Judged(0.0, 0.0, 1.0, rows, max_new_tokens=4, metric=registry.MACRO_F1)
    measured = [scorer_of(answers, candidate, context) for answers in (before, after)]
    old, new = [
        Scores(whole(one), *confidence_interval(one, 0.95), 200, "digest") for one in measured
    ]
    assert old.value < new.value and chance(new, old, True) > 0.05, "by their intervals"
    new = replace(new, drawn=tuple(drawn_of(measured[1])))
    told = [
        json.dumps({**row, "prediction": answer}) for row, answer in zip(rows, before, strict=True)
    ]
    known = with_samples(old, "\n".join(told), candidate, context)
    assert chance(new, known, True) < 0.05
    for others in (told[::-1], told[1:], [], ["{"], [json.dumps(row) for row in rows]):
        assert with_samples(old, "\n".join(others), candidate, context) == old
    edited = replace(old, value=0.99)
    assert with_samples(edited, "\n".join(told), candidate, context) == edited
