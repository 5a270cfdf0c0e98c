"""Scores of parts of a split: by source, by answer length, by label, by columns of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jobs.evaluation import registry
from jobs.evaluation.scored_rows import LABEL, LENGTH, SOURCE, MetricContext, ScoredRow, as_label
from jobs.evaluation.scorers import Scorer
from jobs.evaluation.scores import SliceScores

LENGTHS = (8, 32, 128, 512)
"""Upper ends of the classes of answer length, in characters."""
MOST_VALUES = 40
"""Values of one kind that are told by name, the most frequent ones."""
OTHERS, NOTHING = "(others)", "(none)"


def length_class(text: str) -> str:
    """The class of an answer's length in characters, such as "9-32"."""
    low = 0
    for high in LENGTHS:
        if len(text) <= high:
            return f"{low:03d}-{high:03d}"
        low = high + 1
    return f"{low:03d}-"


def values_by_kind(
    rows: Sequence[ScoredRow], columns: Sequence[str], context: MetricContext
) -> dict[str, list[str]]:
    """What rows are told apart by, with the value of each row. A kind in which all rows are alike
    says nothing and is left out, but for the columns that the user named.
    """
    kinds = {
        SOURCE: [row.source for row in rows],
        LENGTH: [length_class(row.wanted) for row in rows],
    }
    if context.closed:
        kinds[LABEL] = spelled([row.label for row in rows], [row.wanted for row in rows])
    kinds = {kind: values for kind, values in kinds.items() if len(set(values)) > 1}
    for column in columns:
        if column == SOURCE and SOURCE in kinds:
            continue  # the same, with the training source where a row does not say its own
        kinds[column] = [row.columns.get(column, "") for row in rows]
    return {kind: fold(values) for kind, values in kinds.items()}


def spelled(labels: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Labels, which are told apart without their case, as most of the answers spell them."""
    counts = Counter(zip(labels, answers, strict=True))
    usual: dict[str, str] = {}
    for (label, answer), _ in counts.most_common():
        usual.setdefault(label, " ".join(answer.split()))
    return [usual[label] for label in labels]


def fold(values: Sequence[str]) -> list[str]:
    """Values with the rare ones of many under one name, and a name for none."""
    counts = Counter(values)
    most = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
    frequent = set(most)
    return [(value or NOTHING) if value in frequent else OTHERS for value in values]


def slice_scores(
    kinds: dict[str, list[str]], scorers: dict[str, Scorer], details: dict[str, dict[str, float]]
) -> SliceScores:
    """The scores of each slice, with its number of rows. `details` are precision, recall and F1 by
    label, which count answers to other rows too: a label's F1 stands for its macro F1, as its own
    rows alone know no false alarms.
    """
    slices: SliceScores = {}
    for kind, values in kinds.items():
        slices[kind] = {}
        for value in sorted(set(values)):
            rows = np.array([row for row, row_value in enumerate(values) if row_value == value])
            scores = {name: measured.value(rows) for name, measured in scorers.items()}
            slices[kind][value] = {"rows": float(len(rows))} | {
                name: score for name, score in scores.items() if score == score
            }
            label = as_label(value)
            if kind == LABEL and label in details:
                slices[kind][value] |= {
                    name: details[label][name] for name in ("precision", "recall", "f1")
                }
                if registry.MACRO_F1 in slices[kind][value]:
                    slices[kind][value][registry.MACRO_F1] = details[label]["f1"]
    return slices
