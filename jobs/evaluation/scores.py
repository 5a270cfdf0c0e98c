"""How a model is judged and what came out, for those who only hand it on: nothing here needs
torch.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from jobs.config import Scoring
from jobs.evaluation import registry

SliceScores = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is judged; the same for the base, the candidate and the champion."""

    confidence: float
    max_new_tokens: int | None
    num_threads: int
    scoring: Scoring = field(default_factory=Scoring)
    num_examples: int = 0
    """Training rows that stand in the prompt before the question, the same ones for all."""
    version: str | None = None
    """Folder of a registered version that is asked as it was trained: with the neighbours that it
    carries, or with none. None: as the trial's settings say.
    """


@dataclass(frozen=True)
class TestScores:
    """One model on the test split."""

    value: float
    """By the metric that trials are chosen by."""
    low: float
    high: float
    predictions: list[dict[str, Any]]
    """Per row: prompt (exactly what the model was given), reference, answer, its scores, its source
    and the slices it belongs to; `text` and `prediction` are other names of prompt and answer.
    """
    max_new_tokens: int
    num_cut: int = 0
    """Rows whose prompt was too long and lost some of its text."""
    num_unended: int = 0
    """Rows whose answer had not ended after `max_new_tokens`, and counts as far as it goes."""
    metric: str = registry.EXACT_MATCH
    """Name of the metric that `value` is of."""
    scores: dict[str, float] = field(default_factory=dict)
    """All metrics by name, that one among them."""
    intervals: dict[str, list[float]] = field(default_factory=dict)
    """Low and high of some of them."""
    slices: SliceScores = field(default_factory=dict)
    """What rows are told apart by -> value -> rows and metrics."""
    fields: dict[str, dict[str, float]] = field(default_factory=dict)
    """Field of a structured answer -> rows and agreement."""
    seconds: float = 0.0
    """Mean time for a row; rows are answered many at once."""
    example_tokens: int = 0
    """Tokens of the examples that stood before each question."""
    neighbours: dict[str, float] = field(default_factory=dict)
    """Where neighbours stood before each question, what copying them gives; see copying.py."""
    threshold: dict[str, Any] = field(default_factory=dict)
    """Where mistakes cost differently, from which probability on to answer the rarer of two labels;
    see thresholds.py.
    """

    drawn: list[float] = field(default_factory=list)
    """By a metric that is no mean over rows: the score of each of some samples of the rows, which
    are the same for every model on these rows. Empty for a mean, and where it is not known.
    """

    @property
    def per_row(self) -> tuple[float, ...]:
        """The score of each row, in order; empty where the metric says nothing of a single row, or
        an earlier version did not write it down.
        """
        scores = [(row.get("scores") or {}).get(self.metric) for row in self.predictions]
        if any(score is None for score in scores):
            return ()
        return tuple(float(score) for score in scores if score is not None)

    @property
    def key(self) -> str:
        """Under which name `value` is reported."""
        return registry.key(self.metric, registry.TEST)

    def metrics(self) -> dict[str, float]:
        """As MLflow metrics; `test/shortened` and `test/unended` only where there is
        something to tell.
        """
        metrics = {self.key: self.value, f"{self.key}_low": self.low, f"{self.key}_high": self.high}
        for name, (low, high) in self.intervals.items():
            key = registry.key(name, registry.TEST)
            metrics |= {key: self.scores[name], f"{key}_low": low, f"{key}_high": high}
        metrics |= {registry.key(name, registry.TEST): value for name, value in self.scores.items()}
        metrics |= {f"{registry.TEST}/{name}": value for name, value in self.neighbours.items()}
        for name, metric in THRESHOLD_METRICS.items():
            if name in self.threshold:
                metrics[f"{registry.TEST}/{metric}"] = float(self.threshold[name])
        if self.num_cut:
            metrics[f"{registry.TEST}/shortened"] = float(self.num_cut)
        if self.num_unended:
            metrics[f"{registry.TEST}/unended"] = float(self.num_unended)
        return metrics

    def slice_metrics(self) -> dict[str, float]:
        """The decisive metric of each slice, and precision and recall of the labels, under names
        that MLflow takes.
        """
        metrics = {}
        for kind, values in self.slices.items():
            for value, scores in values.items():
                for name in (self.metric, "precision", "recall"):
                    if name in scores:
                        metrics[f"slice/{plain(kind)}/{plain(value)}/{plain(name)}"] = scores[name]
        for name, scores in self.fields.items():
            metrics[f"slice/field/{plain(name)}/agreement"] = scores["agreement"]
        return metrics


def plain(text: str) -> str:
    """A text as a part of a metric's name: letters, digits, spaces and . - _ alone, not too long;
    what had to be changed is told apart by a hash.
    """
    cleaned = re.sub(r"[^\w .-]", "_", text).strip(" .") or "_"
    if cleaned == text and len(cleaned) <= LONGEST_PART:
        return cleaned
    return f"{cleaned[:LONGEST_PART]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


LONGEST_PART = 60
THRESHOLD_METRICS = {
    "threshold": "threshold",
    "cost": "cost_at_threshold",
    "calibration_error": "label_calibration_error",
    "brier": "brier",
}
"""Numbers of a threshold, and under which names they are metrics."""


def greedy_settings(eos_ids: list[int], max_new_tokens: int) -> dict[str, Any]:
    """Arguments of transformers' `generate` for the most likely continuation, whatever the base's
    generation_config.json asks for.
    """
    plain = {
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
    }
    return {
        "max_new_tokens": max_new_tokens,
        **plain,
        "eos_token_id": eos_ids,
        "pad_token_id": eos_ids[0],
    }
