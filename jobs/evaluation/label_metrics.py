"""Metrics of answers that are labels: accuracy, macro-F1, precision and recall, a cost matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jobs.evaluation.scored_rows import ANYTHING, MetricContext, ScoredRow, as_label
from jobs.evaluation.scorers import MeanScorer, Rows, SumScorer


def accuracy(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """The share of answers that name the right label; case and white space do not count."""
    return MeanScorer([float(row.predicted == row.label) for row in rows])


class LabelCounts:
    """Which label each row has and which one was answered, as indices of the labels found in
    training; all others share one index more.
    """

    def __init__(self, rows: Sequence[ScoredRow], context: MetricContext) -> None:
        present = {row.label for row in rows} | {row.predicted for row in rows}
        self.labels = sorted(context.labels & present)
        index_by_label = {label: index for index, label in enumerate(self.labels)}
        other_index = len(self.labels)
        self.right = np.array(
            [index_by_label.get(row.label, other_index) for row in rows], dtype=np.int64
        )
        self.predicted = np.array(
            [index_by_label.get(row.predicted, other_index) for row in rows], dtype=np.int64
        )

    @property
    def num_rows(self) -> int:
        """See Scorer."""
        return len(self.right)

    def counts(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each label: rows that have it, answers that name it, and hits."""
        right, predicted, size = self.right[rows], self.predicted[rows], len(self.labels) + 1
        hits = right[right == predicted]
        return tuple(
            np.bincount(labels, minlength=size)[:-1] for labels in (right, predicted, hits)
        )  # type: ignore[return-value]

    def value(self, rows: Rows) -> float:
        """Macro-F1: the mean F1 of the labels found in training that stand among the references or
        the answers.
        """
        right, predicted, hits = self.counts(rows)
        present = (right + predicted) > 0
        if not present.any():
            return float("nan")
        return float((2 * hits[present] / (right + predicted)[present]).mean())

    def by_label(self) -> dict[str, dict[str, float]]:
        """Rows, precision, recall and F1 of each label of the references."""
        right, predicted, hits = self.counts(np.arange(self.num_rows))
        by_label = {}
        for index, label in enumerate(self.labels):
            if right[index]:
                by_label[label] = {
                    "rows": float(right[index]),
                    "precision": float(hits[index] / max(predicted[index], 1)),
                    "recall": float(hits[index] / right[index]),
                    "f1": float(2 * hits[index] / (right[index] + predicted[index])),
                }
        return by_label


def cost(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """The mean cost of the answers."""
    matrix = CostMatrix(context.costs)
    return MeanScorer([matrix.cost(row.label, row.predicted) for row in rows])


class CostMatrix:
    """What each answer costs, by the right one. A right answer costs nothing unless it says so; a
    wrong one that it does not name costs what stands at "*", else the most that anything costs: an
    answer that is no label at all is never the cheaper one.
    """

    def __init__(self, costs: Mapping[str, Mapping[str, float]]) -> None:
        self.costs = {
            as_label(right): {as_label(predicted): float(value) for predicted, value in row.items()}
            for right, row in costs.items()
        }
        self.most = max((value for row in self.costs.values() for value in row.values()), default=1)

    def cost(self, right: str, predicted: str) -> float:
        """What it costs to answer `predicted` where `right` is right, both as labels."""
        row = self.costs.get(right, {})
        if predicted in row:
            return row[predicted]
        if predicted == right:
            return 0.0
        return row.get(ANYTHING, self.most)
