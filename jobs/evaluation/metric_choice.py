"""What sweep.metric=auto chooses, and why: by the answers of the rows. Also what metrics know of a
task.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from jobs.config import Scoring
from jobs.data.corpus import Corpus
from jobs.evaluation import registry
from jobs.evaluation.json_answers import is_structured
from jobs.evaluation.scored_rows import MetricContext, as_label, training_labels

FEW_LABELS = 50
"""Different answers up to which a task is one of labels, where they repeat."""
MOST_LABELS = 5000
"""Different answers up to which scores by label are told at all."""
REPEATS = 3
"""How often an answer of a closed task stands in the training rows, on average."""
SEEN_SHARE = 0.8
"""Share of the held-out answers that also stand in training, in a closed task."""
SHORT_CHARACTERS = 40
"""Answers up to so long, nine of ten of them, are short."""


def choose_metric(corpus: Corpus) -> tuple[str, str]:
    """The metric that fits a task's answers, as sweep.metric names it, and the reason."""
    labels, held = training_labels(corpus), held_out_answers(corpus)
    rows = sum(map(len, corpus.sources.values()))
    if is_closed(corpus, labels) and len(labels) <= FEW_LABELS:
        return (
            registry.key(registry.ACCURACY),
            f"{len(labels)} different answers stand in {rows:,} training rows",
        )
    if is_structured(held):
        return (
            registry.key(registry.EXACT_MATCH),
            "answers are JSON, which serves a program only when every field is right",
        )
    length = ninth_decile([len(answer) for answer in held])
    if length <= SHORT_CHARACTERS:
        return (
            registry.key(registry.EXACT_MATCH),
            f"nine of ten answers have at most {length} characters",
        )
    return (
        registry.key(registry.CHRF),
        f"answers are long: one in ten has more than {length} characters",
    )


def held_out_answers(corpus: Corpus) -> list[str]:
    """The reference answers of the validation rows, or where there are none of the test rows."""
    return [row.answer.strip() for row in corpus.valid or corpus.test]


def ninth_decile(lengths: Sequence[int]) -> int:
    """The length that nine of ten do not exceed."""
    if len(lengths) < 2:
        return max(lengths, default=0)
    return round(statistics.quantiles(lengths, n=10, method="inclusive")[-1])


def is_closed(corpus: Corpus, labels: frozenset[str]) -> bool:
    """Whether answers are labels: they repeat in training, and those of the held-out rows stand
    among them.
    """
    rows, held = sum(map(len, corpus.sources.values())), held_out_answers(corpus)
    if not labels or len(labels) > MOST_LABELS or len(labels) * REPEATS > rows:
        return False
    return sum(as_label(answer) in labels for answer in held) >= SEEN_SHARE * len(held)


def context_of(corpus: Corpus, scoring: Scoring) -> MetricContext:
    """What metrics know of a task."""
    labels, held = training_labels(corpus), held_out_answers(corpus)
    name = registry.name_of(scoring.metric)
    return MetricContext(
        labels=labels,
        costs=scoring.costs,
        function=name if registry.is_user_function(name) else None,
        folder=scoring.folder,
        closed=is_closed(corpus, labels),
        structured=is_structured(held),
    )
