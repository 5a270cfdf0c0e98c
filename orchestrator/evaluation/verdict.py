"""What a winner is compared with, in the promotion rule's terms: the base, the baselines, and the
champion with what is written down of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.config import Trial
from jobs.evaluation import registry
from jobs.evaluation.answer_scores import confidence_interval, is_of_answers, row_scores, scorer
from jobs.evaluation.baselines import Answers
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import Scorer, drawn_of, whole
from jobs.evaluation.scores import TestScores
from orchestrator.errors import InputError
from orchestrator.evaluation.promotion import Rival, Scores
from orchestrator.output.best_lines import BASELINES
from orchestrator.tracking.model_versions import Version

FEW_SHOT = "base_with_examples"
SMALLEST_SLICE = 10
"""Test rows of a slice that is looked at: fewer show nothing."""
NO_MEANS = (registry.CHRF, registry.LOSS, registry.BITS_PER_BYTE)
"""Metrics of single rows too, whose score of all rows is not the mean of theirs."""
MOST_LABELS = 50
"""Different answers up to which each is a slice of its own."""


def scores_of(verdict: TestScores, digest: str) -> Scores:
    """A verdict in the rule's terms."""
    rows = len(verdict.predictions)
    drawn = tuple(verdict.drawn)
    return Scores(verdict.value, verdict.low, verdict.high, rows, digest, verdict.per_row, drawn)


def baseline_scores(
    answers: Answers,
    candidate: TestScores,
    context: MetricContext,
    digest: str,
    confidence: float,
) -> dict[str, Scores]:
    """The baselines' answers to the test rows, scored as the candidate's are; none by a metric that
    needs a model, or by whether free text is valid JSON, which a copied one always is. Answers that
    are not as many as the rows are of other data, and left out.
    """
    scored: dict[str, Scores] = {}
    is_copied = answers.free_text and candidate.metric == registry.JSON_VALID
    if is_copied or not is_of_answers(candidate.metric):
        return scored
    for name, replies in answers.splits.get("test", {}).items():
        if len(replies) != len(candidate.predictions):
            continue
        measured = scorer_of(replies, candidate, context)
        low, high = confidence_interval(measured, confidence)
        by_row = row_scores({candidate.metric: measured}, len(replies))
        per_row = tuple(row[candidate.metric] for row in by_row if candidate.metric in row)
        if len(per_row) < len(replies):
            per_row = ()
        drawn = tuple(drawn_of(measured))
        scored[name] = Scores(whole(measured), low, high, len(replies), digest, per_row, drawn)
    return scored


def scorer_of(replies: Sequence[str], candidate: TestScores, context: MetricContext) -> Scorer:
    """Others' answers to the candidate's test rows, one for each, by its metric."""
    rows = [
        ScoredRow.of_prediction({**row, "reference": row["reference"].strip()}, reply)
        for row, reply in zip(candidate.predictions, replies, strict=True)
    ]
    return scorer(candidate.metric, rows, context)


def asked_as(trial: Trial) -> tuple[Any, ...]:
    """What of a trial decides how a test row is put to a model."""
    return trial.data.neighbours, trial.data.instruction, trial.train.max_length


def metrics_of(scores: Scores, metric: str) -> dict[str, float]:
    """As MLflow metrics, as those of a model."""
    return {metric: scores.value, f"{metric}_low": scores.low, f"{metric}_high": scores.high}


def rivals_of(base: Scores, baselines: Mapping[str, Scores], maximise: bool) -> list[Rival]:
    """The base and the baselines as rivals, the strongest baseline first."""
    order = sorted(baselines.items(), key=lambda item: item[1].value, reverse=maximise)
    return [
        Rival("base", "the untouched base model", base),
        *(Rival("baselines", BASELINES.get(name, name), scores) for name, scores in order),
    ]


def champion_scores(
    tags: Mapping[str, str], digest: str, key: str, predictions: str | None
) -> Scores | None:
    """What a version's tags and predictions say of it on the test rows with this digest; None where
    they do not, or were edited to what is no score.
    """
    try:
        value, low, high = (float(tags[f"{key}{end}"]) for end in ("", "_low", "_high"))
        rows = int(tags["test.rows"])
    except (KeyError, ValueError):
        return None
    if tags.get("test.digest") != digest:
        return None
    return Scores(value, low, high, rows, digest, written_rows(predictions, key, value, rows))


def written_rows(predictions: str | None, key: str, value: float, rows: int) -> tuple[float, ...]:
    """The score of each row, from the text of a predictions.jsonl; empty where it does not agree
    with what the version is tagged with.
    """
    try:
        answers = [json.loads(line) for line in (predictions or "").splitlines() if line.strip()]
        name = registry.name_of(key)
        scores = tuple(float(row["scores"][name]) for row in answers)
    except (ValueError, KeyError, TypeError):
        return ()
    if len(scores) != rows:
        return ()
    agrees = name in NO_MEANS or math.isclose(sum(scores) / rows, value, abs_tol=1e-5)
    return scores if agrees else ()


def slices_of(predictions: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Test rows by slice: those that a row names under `slices`, and its answer where there are few
    different ones. Slices of few rows are left out.
    """
    rows_by_slice: dict[str, list[int]] = {}
    labels = {str(row["reference"]) for row in predictions}
    for row_index, row in enumerate(predictions):
        named = {str(key): str(value) for key, value in (row.get("slices") or {}).items()}
        if len(labels) <= MOST_LABELS:
            named.setdefault("label", str(row["reference"]))
        for key, value in named.items():
            rows_by_slice.setdefault(f"{key}={value}", []).append(row_index)
    return {name: rows for name, rows in rows_by_slice.items() if len(rows) >= SMALLEST_SLICE}


def megabytes_loaded(trained: Path, base: Path) -> float:
    """Weights that serving a model loads, in 10**6 bytes: what was trained, and of an adapter the
    base below it.
    """
    folders = [trained, base] if (trained / "adapter_config.json").exists() else [trained]
    files = [file for folder in folders for file in folder.rglob("*.safetensors")]
    return sum(file.stat().st_size for file in files) / 1e6


def written_scores(
    store: Any,
    champion: Version,
    digest: str,
    candidate: TestScores,
    context: Callable[[], MetricContext],
) -> Scores | None:
    """The champion's scores on these test rows, as far as it was registered with them, row by row
    where its files say so, and on the candidate's samples of the rows. `context` is asked for only
    where there are such.
    """
    key = candidate.key
    tagged_scores = champion_scores(champion.tags, digest, key, None)
    if tagged_scores is None:
        return None
    try:
        predictions = store.read_file(champion.uri, "predictions.jsonl")
    except (InputError, OSError, ValueError):
        predictions = None  # its files are gone: then its tags are all that is known
    scores = champion_scores(champion.tags, digest, key, predictions)
    if scores is None or not candidate.drawn or not is_of_answers(candidate.metric):
        return scores
    return with_samples(scores, predictions, candidate, context())


def with_samples(
    scores: Scores, predictions: str | None, candidate: TestScores, context: MetricContext
) -> Scores:
    """A champion's scores with those of samples of the rows, from the answers in the text of its
    predictions.jsonl; as they are where its rows are not the candidate's or give another score.
    """
    try:
        answers = [json.loads(line) for line in (predictions or "").splitlines() if line.strip()]
        asked = [str(row["reference"]) for row in answers]
        replies = [str(row["prediction"]) for row in answers]
    except (ValueError, KeyError, TypeError):
        return scores
    if asked != [str(row["reference"]) for row in candidate.predictions]:
        return scores
    measured = scorer_of(replies, candidate, context)
    if not math.isclose(whole(measured), scores.value, abs_tol=1e-5):
        return scores
    return replace(scores, drawn=tuple(drawn_of(measured)))
