"""All metrics of some answers at once: the one that decides, and those that cost nothing beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jobs.evaluation import label_metrics, registry, structured_metrics, text_metrics
from jobs.evaluation.intervals import mean_interval
from jobs.evaluation.metrics import interval
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import MeanScorer, Scorer, resampled_interval, whole
from jobs.evaluation.user_metric import user_scorer

Make = Callable[[Sequence[ScoredRow], MetricContext], Scorer]

SCORERS: dict[str, Make] = {
    registry.EXACT_MATCH: text_metrics.exact_match,
    registry.ACCURACY: label_metrics.accuracy,
    registry.MACRO_F1: label_metrics.LabelCounts,
    registry.CHRF: text_metrics.chrf,
    registry.BLEU: text_metrics.bleu,
    registry.ROUGE_L: text_metrics.rouge_l,
    registry.JSON_VALID: structured_metrics.json_valid,
    registry.FIELD_AGREEMENT: structured_metrics.field_agreement,
    registry.COST: label_metrics.cost,
    registry.PLACEHOLDERS: text_metrics.placeholders,
}
"""How each metric of answers is computed."""


def scorer(name: str, rows: Sequence[ScoredRow], context: MetricContext) -> Scorer:
    """A metric over rows, by its name without a split."""
    if registry.is_user_function(name):
        return user_scorer(rows, context)
    return SCORERS[name](rows, context)


def is_of_answers(metric: str) -> bool:
    """Whether a metric can be computed from answers alone, whoever gives them."""
    return registry.is_user_function(metric) or registry.name_of(metric) in SCORERS


def worth_logging(context: MetricContext) -> list[str]:
    """The metrics of answers that say something about a task, the user's own first."""
    names = [] if context.function is None else [context.function]
    names += [registry.EXACT_MATCH, registry.CHRF, registry.BLEU, registry.ROUGE_L]
    if context.closed:
        names += [registry.ACCURACY, registry.MACRO_F1]
    if context.structured:
        names += [registry.JSON_VALID, registry.FIELD_AGREEMENT]
    if context.placeholders:
        names.append(registry.PLACEHOLDERS)
    if context.costs:
        names.append(registry.COST)
    return names


def all_scorers(
    decisive: str | None, rows: Sequence[ScoredRow], context: MetricContext
) -> dict[str, Scorer]:
    """The metrics of some answers by name: the one that decides, and those worth logging."""
    names = worth_logging(context)
    if decisive is not None and registry.metric_of(decisive).needs == "text":
        names.insert(0, registry.name_of(decisive))
    return {name: scorer(name, rows, context) for name in dict.fromkeys(names)}


def confidence_interval(measured: Scorer, confidence: float) -> tuple[float, float]:
    """Low and high around a metric's score: of a mean over rows by `mean_interval`, else by
    resampling; of a macro F1 of 0 or 1, whose samples are all alike, as of no hit and all hits.
    """
    if isinstance(measured, MeanScorer):
        return mean_interval(measured.scores, confidence)
    low, high = resampled_interval(measured, confidence)
    if isinstance(measured, label_metrics.LabelCounts) and low == high and low in (0.0, 1.0):
        return interval([low == 1.0] * measured.num_rows, confidence)
    return low, high


def row_scores(scorers: dict[str, Scorer], count: int) -> list[dict[str, float]]:
    """Of each row the metrics that say something of a single one."""
    scores: list[dict[str, float]] = [{} for _ in range(count)]
    for name, measured in scorers.items():
        if not registry.metric_of(name).by_row:
            continue
        for row in range(count):
            value = measured.value(np.array([row]))
            if value == value:
                scores[row][name] = round(value, 6)
    return scores


def values(scorers: dict[str, Scorer], split: str) -> dict[str, float]:
    """The scores of all rows, as reported for a split."""
    return {registry.key(name, split): whole(measured) for name, measured in scorers.items()}
