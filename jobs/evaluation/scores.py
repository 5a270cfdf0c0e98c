"""How a model is judged and what came out, for those who only hand it on: nothing here needs
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is judged; the same for the base, the candidate and the champion."""

    confidence: float
    max_new_tokens: int | None
    num_threads: int
    num_examples: int = 0
    """Training rows that stand in the prompt before the question."""


@dataclass(frozen=True)
class TestScores:
    """One model on the test split."""

    exact_match: float
    low: float
    high: float
    predictions: list[dict[str, Any]]
    """Per row: text (exactly what the model was given), reference, prediction, score."""
    max_new_tokens: int
    num_cut: int = 0
    """Rows whose prompt was too long and lost some of its text."""
    seconds: float = 0.0
    """Mean time for a row; rows are answered many at once."""
    example_tokens: int = 0
    """Tokens of the examples that stood before each question."""

    @property
    def per_row(self) -> tuple[float, ...]:
        """The score of each row, in order; empty where rows have none, by an earlier version."""
        if not all("score" in row for row in self.predictions):
            return ()
        return tuple(float(row["score"]) for row in self.predictions)

    def metrics(self) -> dict[str, float]:
        """As MLflow metrics; `test/shortened` only where there is something to tell."""
        shortened = {"test/shortened": float(self.num_cut)} if self.num_cut else {}
        return {
            "test/exact_match": self.exact_match,
            "test/exact_match_low": self.low,
            "test/exact_match_high": self.high,
        } | shortened


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
