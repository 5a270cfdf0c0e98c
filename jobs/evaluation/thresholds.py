"""From which probability on a label should be answered, where mistakes cost differently: chosen on
the validation rows, told of the test rows, with how far the probabilities can be trusted.

A model answers the likelier label. With two labels and a cost for each mistake the cheaper answer
may be the other one: this says from which probability on.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.evaluation.label_metrics import CostMatrix
from jobs.evaluation.scored_rows import MetricContext, as_label

BINS = 15
"""Of equal width, as in calibration.py."""
LogLikelihoods = Callable[[list[Row]], np.ndarray]
"""The log-probability of the answer of each row."""


def applies(context: MetricContext, rows: Sequence[Row]) -> bool:
    """Whether there are costs, and two labels between which a threshold decides."""
    asked_plainly = not any(row.neighbours or row.tools or row.thinking for row in rows)
    return bool(context.costs) and len(context.labels) == 2 and asked_plainly


def threshold_scores(
    corpus: Corpus, context: MetricContext, log_likelihoods: LogLikelihoods
) -> dict[str, Any]:
    """The threshold of the rarer label, and what it is worth; ready for json.dumps."""
    rare, usual = spelled_labels(corpus)
    matrix = CostMatrix(context.costs)
    valid = probabilities(corpus.valid, rare, usual, log_likelihoods)
    test = probabilities(corpus.test, rare, usual, log_likelihoods)
    valid_is_rare = is_label(corpus.valid, rare)
    test_is_rare = is_label(corpus.test, rare)
    costs = costs_of(matrix, as_label(rare), as_label(usual))
    threshold = choose(valid, valid_is_rare, costs)
    return {
        "label": rare,
        "threshold": threshold,
        "valid_rows": len(valid),
        "valid_cost": mean_cost(valid, valid_is_rare, threshold, costs),
        "cost": mean_cost(test, test_is_rare, threshold, costs),
        "cost_at_half": mean_cost(test, test_is_rare, 0.5, costs),
        "calibration_error": calibration_error(test, test_is_rare),
        "brier": float(np.mean((test - test_is_rare) ** 2)),
    }


def spelled_labels(corpus: Corpus) -> tuple[str, str]:
    """The rarer and the more frequent label, as most training rows write them."""
    rows = [row for source in corpus.sources.values() for row in source]
    spellings = Counter(row.answer.strip() for row in rows)
    labels = Counter(as_label(row.answer) for row in rows)
    order = sorted(labels, key=lambda label: (labels[label], label))
    usual_spelling = {
        label: max(
            (text for text in spellings if as_label(text) == label),
            key=lambda text: (spellings[text], text),
        )
        for label in order
    }
    return usual_spelling[order[0]], usual_spelling[order[-1]]


def probabilities(
    rows: Sequence[Row], rare: str, usual: str, log_likelihoods: LogLikelihoods
) -> np.ndarray:
    """The probability of the rarer label in each row, of the two."""
    both = with_labels(rows, (rare, usual))
    scores = np.asarray(log_likelihoods(both), dtype=np.float64).reshape(-1, 2)
    gap = np.clip(scores[:, 1] - scores[:, 0], -500, 500)
    return 1 / (1 + np.exp(gap))


def with_labels(rows: Sequence[Row], labels: tuple[str, str]) -> list[Row]:
    """Each row with one label as its answer, and then with the other one."""
    return [answered(row, label) for row in rows for label in labels]


def answered(row: Row, label: str) -> Row:
    """A row with another answer."""
    answer = {**row.messages[-1], "content": label}
    return dataclasses.replace(row, messages=(*row.messages[:-1], answer))


def is_label(rows: Sequence[Row], label: str) -> np.ndarray:
    """1.0 for each row whose right answer is the label, else 0.0."""
    return np.array([float(as_label(row.answer) == as_label(label)) for row in rows])


def costs_of(matrix: CostMatrix, rare: str, usual: str) -> np.ndarray:
    """(2, 2): by whether the rarer label is right, what answering the usual and the rarer cost."""
    return np.array(
        [[matrix.cost(right, said) for said in (usual, rare)] for right in (usual, rare)]
    )


def mean_cost(
    probability: np.ndarray, is_rare: np.ndarray, threshold: float, costs: np.ndarray
) -> float:
    """What the rows cost when the rarer label is answered from the threshold on."""
    said = (probability >= threshold).astype(int)
    return float(costs[is_rare.astype(int), said].mean())


def choose(probability: np.ndarray, is_rare: np.ndarray, costs: np.ndarray) -> float:
    """The cheapest threshold on some rows: halfway between two of their probabilities, or an end.
    Of several the one nearest to that of probabilities that can be trusted.
    """
    seen = np.unique(probability)
    candidates = [0.0, *((seen[1:] + seen[:-1]) / 2).tolist(), float(np.nextafter(1.0, 2.0))]
    trusted = trusted_threshold(costs)
    cost = {each: mean_cost(probability, is_rare, each, costs) for each in (*candidates, trusted)}
    least = min(cost.values())
    return float(
        min((each for each in cost if cost[each] <= least), key=lambda e: abs(e - trusted))
    )


def trusted_threshold(costs: np.ndarray) -> float:
    """The threshold where probabilities are what they say (Elkan, 2001); a half where the costs ask
    for none.
    """
    too_much = costs[0, 1] - costs[0, 0]
    too_little = costs[1, 0] - costs[1, 1]
    total = too_much + too_little
    if total <= 0:
        return 0.5
    return float(np.clip(too_much / total, 0.0, 1.0))


def calibration_error(probability: np.ndarray, is_rare: np.ndarray) -> float:
    """Expected calibration error of the likelier label (Guo et al., 2017)."""
    confidence = np.maximum(probability, 1 - probability)
    right = (probability >= 0.5) == (is_rare > 0.5)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = [abs(float((confidence[bins == b] - right[bins == b]).sum())) for b in np.unique(bins)]
    return sum(gaps) / max(len(probability), 1)
