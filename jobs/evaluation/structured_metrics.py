"""Metrics of answers that are JSON: whether they are, and which fields agree."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.evaluation.json_answers import parse
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import MeanScorer, SumScorer
from jobs.files.json_types import Json, JsonObject


def json_valid(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """The share of answers that are JSON, and a container where the reference is one."""
    return MeanScorer([float(is_valid(row)) for row in rows])


def is_valid(row: ScoredRow) -> bool:
    """Whether an answer can be read as JSON of its reference's kind."""
    answer, wanted = parse(row.said), parse(row.wanted)
    if answer is None:
        return False
    if wanted is not None and isinstance(wanted[0], dict | list):
        return type(answer[0]) is type(wanted[0])
    return True


def fields(value: Json, path: str = "") -> JsonObject:
    """The leaves of a JSON value by their dotted path; an empty container is a leaf."""
    if isinstance(value, dict) and value:
        children = value.items()
    elif isinstance(value, list) and value:
        children = enumerate(value)
    else:
        return {path: value}
    leaves: JsonObject = {}
    for name, inner in children:
        leaves |= fields(inner, f"{path}.{name}" if path else str(name))
    return leaves


def same(first: Json, second: Json) -> bool:
    """Whether two leaves are equal; 1 and 1.0 are, 1 and true are not."""
    return isinstance(first, bool) == isinstance(second, bool) and first == second


def agreement(answer_text: str, wanted: str) -> float:
    """The share of fields that agree, of all that stand in either; texts that are no JSON agree if
    they are the same.
    """
    reference, answer = parse(wanted), parse(answer_text)
    if reference is None:
        return float(answer_text == wanted)
    if answer is None:
        return 0.0
    right, predicted = fields(reference[0]), fields(answer[0])
    hits = sum(name in predicted and same(predicted[name], value) for name, value in right.items())
    return hits / len(right.keys() | predicted.keys())


def field_agreement(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """The mean over rows of the share of fields that agree."""
    return MeanScorer([agreement(row.said, row.wanted) for row in rows])


def by_field(rows: Sequence[ScoredRow]) -> dict[str, dict[str, float]]:
    """Of each field of the references: rows that have it, and the share of them whose answer has
    the same there. Places in lists are one field.
    """
    totals: dict[str, list[int]] = {}
    for row in rows:
        reference, answer = parse(row.wanted), parse(row.said)
        if reference is None or not isinstance(reference[0], dict):
            continue
        predicted = answer[0] if answer is not None and isinstance(answer[0], dict) else {}
        for name, value in reference[0].items():
            count = totals.setdefault(str(name), [0, 0])
            count[0] += 1
            count[1] += name in predicted and fields(predicted[name]) == fields(value)
    return {
        name: {"rows": float(count), "agreement": hits / count}
        for name, (count, hits) in totals.items()
    }
