"""The score of a file as it ships: the version's own test rows, answered by the file in its
runtime, beside what the trained model answered to the same rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from jobs.data.answer_text import answer_text
from jobs.data.chat_template import ChatTokenizer
from jobs.evaluation import registry
from jobs.evaluation.answer_scores import confidence_interval, is_of_answers, row_scores, scorer
from jobs.evaluation.comparison import compare
from jobs.evaluation.json_answers import is_structured
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import MeanScorer, Scorer, resampled_difference, whole
from jobs.export.divergence import Divergence, Reference, of_answer, summary
from jobs.export.row_choice import chosen
from jobs.llama_cpp.runtime import Completion, Runtime
from jobs.onnx_genai.runtime import OnnxRuntime

SLOTS = 4
"""Rows that are answered at once."""
COMPARED_ROWS = 32
"""Rows whose tokens are compared with the trained model's."""
BITS_ROWS = 16
"""Rows whose right answers the file is asked the probability of, a request for each token."""
TOLD = 64
"""Most likely tokens whose probabilities are compared one by one."""
DIGITS = 6


@dataclass(frozen=True)
class ShippedScores:
    """One file on the test rows."""

    metric: str
    value: float
    low: float
    high: float
    rows: int
    trained: float
    """The trained model's score on the same rows."""
    difference: float
    """Of the file's score from it."""
    difference_low: float | None
    """Lower end of the interval around it; None where a function of the user's is too slow to be
    asked for many samples of the rows.
    """
    difference_high: float | None
    p_value: float | None
    """How often a file that loses nothing would look so much worse by chance; None where the
    interval is.
    """
    same_answers: float
    """Share of rows that both answer alike."""
    answers: list[str] = field(default_factory=list)
    per_row: list[float] = field(default_factory=list)
    """The score of each row; empty where the metric says nothing of a single one."""

    def record(self) -> dict[str, Any]:
        """As plain values, without those of each row."""
        values = {
            name: value for name, value in vars(self).items() if name not in ("answers", "per_row")
        }
        return {
            name: round(value, DIGITS) if isinstance(value, float) else value
            for name, value in values.items()
        }


def chosen_rows(rows: Sequence[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """At most so many rows, spread over all."""
    return [rows[position] for position in chosen(len(rows), most)]


def answer_all(
    runtime: Runtime | OnnxRuntime,
    rows: Sequence[dict[str, Any]],
    template: ChatTokenizer,
    most: int,
    reference: Reference,
    adapter: int | None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[str], Divergence]:
    """The file's answers to the rows, and how far its probabilities are from the trained model's on
    some of them.
    """
    prompts = [template.encode(row["text"]) for row in rows]
    step = max(len(rows) // COMPARED_ROWS, 1)
    compared = set(range(0, len(rows), step))
    done = 0

    def one(index: int) -> Completion:
        nonlocal done
        if index in compared:
            answered = runtime.told_each(prompts[index], most, adapter, TOLD)
        else:
            answered = runtime.complete(prompts[index], most, adapter)
        done += 1
        tick(done, len(rows))
        return answered

    with ThreadPoolExecutor(min(SLOTS, os.cpu_count() or 1)) as pool:
        completions = list(pool.map(one, range(len(rows))))
    values: list[float] = []
    equal = 0
    for index in sorted(compared):
        row, same = of_answer(reference, prompts[index], completions[index])
        values += row
        equal += same
    ends = set(template.eos_ids)
    answers = [
        answer_text(template, [token for token in answered.ids if token not in ends])
        for answered in completions
    ]
    return answers, summary(values, equal)


def context_of_version(task: dict[str, Any], rows: Sequence[dict[str, Any]]) -> MetricContext:
    """What the metric knew when the version was judged, as far as the version tells."""
    scoring = task.get("scoring") or {}
    metric = str(scoring.get("metric") or "")
    return MetricContext(
        labels=frozenset(scoring.get("labels") or ()),
        costs=scoring.get("costs") or {},
        function=metric if registry.is_user_function(metric) else None,
        folder=scoring.get("folder"),
        closed=bool(scoring.get("labels")),
        structured=is_structured([row["reference"] for row in rows]),
    )


def scores_of(
    rows: Sequence[dict[str, Any]], answers: Sequence[str], task: dict[str, Any], confidence: float
) -> ShippedScores:
    """The scores of answers to rows, by the metric that the version was chosen by. A metric of
    probabilities says nothing of a file that only answers: then it is exact match.
    """
    metric = str((task.get("scoring") or {}).get("metric") or registry.EXACT_MATCH)
    if not is_of_answers(metric):
        metric = registry.EXACT_MATCH
    context = context_of_version(task, rows)

    def scored(texts: Sequence[str]) -> list[ScoredRow]:
        return [ScoredRow.of_prediction(row, text) for row, text in zip(rows, texts, strict=True)]

    before = [row["prediction"] for row in rows]
    shipped = scorer(metric, scored(answers), context)
    trained = scorer(metric, scored(before), context)
    low, high = confidence_interval(shipped, confidence)
    value, was = whole(shipped), whole(trained)
    difference_low, difference_high, p_value = difference_of(
        shipped, trained, registry.metric_of(metric).maximise, confidence
    )
    by_row = row_scores({metric: shipped}, len(rows))
    per_row = [row[metric] for row in by_row if metric in row]
    return ShippedScores(
        metric=metric,
        value=value,
        low=low,
        high=high,
        rows=len(rows),
        trained=was,
        difference=value - was,
        difference_low=difference_low,
        difference_high=difference_high,
        p_value=p_value,
        same_answers=sum(a == b for a, b in zip(answers, before, strict=True)) / len(rows),
        answers=list(answers),
        per_row=per_row if len(per_row) == len(rows) else [],
    )


def difference_of(
    shipped: Scorer, trained: Scorer, maximise: bool, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """Low and high around the file's score less the trained model's, and how often a file that
    loses nothing would look so much worse by chance. Of means over rows from those of each row, of
    other scores from the whole score of the same samples of rows.
    """
    if isinstance(shipped, MeanScorer) and isinstance(trained, MeanScorer):
        compared = compare(trained.scores, shipped.scores, maximise, confidence)
        return -compared.high, -compared.low, compared.p_value
    found = resampled_difference(shipped, trained, confidence)
    if found is None:
        return None, None, None
    low, high, drawn = found
    no_worse = drawn >= 0 if maximise else drawn <= 0
    return low, high, (1 + int(no_worse.sum())) / (1 + len(drawn))


def bits_per_byte(
    runtime: Runtime | OnnxRuntime,
    rows: Sequence[dict[str, Any]],
    template: ChatTokenizer,
    adapter: int | None,
) -> float | None:
    """What the file makes of the right answers to some of the rows, whatever its tokenizer: their
    cross-entropy, the token that ends each included, per byte of answer. None where the runtime
    tells no probability of any row.
    """
    step = max(len(rows) // BITS_ROWS, 1)
    nats, num_bytes = 0.0, 0
    end = template.eos_ids[template.eos_tokens.index(template.end_of_turn)]
    for row in rows[::step]:
        ids = template.encode(row["text"])
        answer = [*template.encode(row["reference"]), end]
        logs = [
            runtime.log_probability([*ids, *answer[:position]], token, adapter)
            for position, token in enumerate(answer)
        ]
        if all(log is not None for log in logs):
            nats -= sum(log for log in logs if log is not None)
            num_bytes += len(row["reference"].encode("utf-8", "surrogatepass"))
    if not num_bytes:
        return None
    return nats / math.log(2) / num_bytes
