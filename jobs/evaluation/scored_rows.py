"""One answered row, and what the metrics of answers are computed from.

Imports neither torch nor numpy: the plan uses it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.data.rendered import final_answer
from jobs.data.tokenization import Example

SOURCE, LENGTH, LABEL = "source", "answer_length", "label"
"""What scores are told by in any case."""
ANYTHING = "*"
"""In a row of the cost matrix: every answer that has no cost of its own."""


@dataclass(frozen=True)
class ScoredRow:
    """A prompt with its reference and what a model answered."""

    prompt: str
    """Exactly as the model was given it."""
    reference: str
    answer: str
    source: str = ""
    """Where the row comes from: the training source that it was cut from, or its own column."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What it holds in the columns that data.slices names."""
    mark: str = ""
    """What stands between a reasoning and the answer proper, where rows have reasoning."""

    @classmethod
    def of_prediction(cls, told: Mapping[str, Any], answer: str) -> ScoredRow:
        """A row of predictions.jsonl with what another one answered."""
        columns, mark = told.get("columns", {}), told.get("mark", "")
        reference, source = told["reference"], told.get("source", "")
        return cls(told["text"], reference, answer, source, columns, mark)

    def further(self) -> dict[str, Any]:
        """What a prediction tells beside texts and scores, where there is any."""
        told = {"columns": dict(self.columns), "mark": self.mark}
        return {name: value for name, value in told.items() if value}

    @cached_property
    def wanted(self) -> str:
        """The reference, without a reasoning before it."""
        return final_answer(self.reference, self.mark)

    @cached_property
    def said(self) -> str:
        """The answer, without a reasoning before it."""
        return final_answer(self.answer, self.mark)

    @cached_property
    def label(self) -> str:
        """The reference as a label."""
        return as_label(self.wanted)

    @cached_property
    def predicted(self) -> str:
        """The answer as a label."""
        return as_label(self.said)


def as_label(text: str) -> str:
    """A text in the form in which two labels are compared: case folded, white space collapsed."""
    return " ".join(text.casefold().split())


def scored_rows(
    rows: Sequence[Row], examples: Sequence[Example], answers: Sequence[str]
) -> list[ScoredRow]:
    """Rows of a split with what was answered to them, all in the same order."""
    return [
        ScoredRow(
            example.text, example.reference, answer, row.source, dict(row.columns), example.mark
        )
        for row, example, answer in zip(rows, examples, answers, strict=True)
    ]


@dataclass(frozen=True)
class MetricContext:
    """What metrics know beside the rows that they score."""

    labels: frozenset[str] = frozenset()
    """The different answers of the training rows, as labels."""
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Reference -> answer -> cost; see label_metrics.CostMatrix."""
    function: str | None = None
    """A function of the user's, as module:function."""
    folder: str | None = None
    """Folder that its module is imported from."""
    closed: bool = False
    """Whether the answers are labels that repeat: then label metrics are worth logging."""
    structured: bool = False
    """Whether the reference answers are JSON objects or lists."""
    placeholders: bool = False
    """Whether reference answers hold what stands for something else, such as %s."""


LABELS = "training labels"
"""Under which they are kept with the rows."""


def training_labels(corpus: Corpus) -> frozenset[str]:
    """The different answers of the training rows, as labels."""
    labels = corpus.memo.get(LABELS)
    if labels is None:
        answers = {row.answer for rows in corpus.sources.values() for row in rows}
        labels = corpus.memo[LABELS] = frozenset(map(as_label, answers))
    return labels
