"""Text metrics of a trial at a rung: on which rows, and what comes out. Both executors use it; each
generates in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jobs.config import Scoring
from jobs.data.corpus import Corpus
from jobs.data.tokenization import Example
from jobs.evaluation import registry
from jobs.evaluation.answer_scores import all_scorers, values
from jobs.evaluation.by_source import key, sources_of
from jobs.evaluation.metric_choice import context_of
from jobs.evaluation.scored_rows import scored_rows
from jobs.evaluation.scorers import Scorer


class RungScores:
    """The text metrics of one validation split."""

    def __init__(self, scoring: Scoring, corpus: Corpus, valid: list[Example]) -> None:
        self.scoring, self.corpus, self.valid = scoring, corpus, valid
        self.context = context_of(corpus, scoring)
        self.sources = sources_of(corpus.valid)
        self.max_new_tokens = scoring.max_new_tokens or max(
            len(example.ids) - example.prompt_length for example in valid
        )

    def rows(self, is_last: bool) -> list[int]:
        """Which rows are answered: all at a trial's end, else at most scoring.rows, spread evenly
        and the same ones at every rung of every trial.
        """
        count = len(self.valid)
        if is_last or self.scoring.rows is None or self.scoring.rows >= count:
            return list(range(count))
        return [index * count // self.scoring.rows for index in range(self.scoring.rows)]

    def prompts(self, rows: Sequence[int]) -> list[list[int]]:
        """Token ids of the prompts of some rows."""
        return [self.valid[row].ids[: self.valid[row].prompt_length] for row in rows]

    def metrics(self, rows: Sequence[int], answers: Sequence[str]) -> dict[str, float]:
        """What some rows' answers score. Exact match is told for the whole split already, from one
        pass.
        """
        scored = scored_rows(
            [self.corpus.valid[row] for row in rows], [self.valid[row] for row in rows], answers
        )
        scorers = all_scorers(self.scoring.metric, scored, self.context)
        metrics = values(scorers, registry.VALID)
        metrics.pop(registry.key(registry.EXACT_MATCH), None)
        metrics |= self.by_source(rows, scorers)
        return metrics | {registry.NUM_ANSWERED: float(len(rows))}

    def by_source(self, rows: Sequence[int], scorers: dict[str, Scorer]) -> dict[str, float]:
        """The metric that decides, of the rows of each source, where they tell theirs."""
        name = registry.name_of(self.scoring.metric)
        sources = [self.sources[row] for row in rows] if self.sources else []
        metrics = {}
        for source in sorted(set(sources)):
            places = [place for place, other in enumerate(sources) if other == source]
            value = scorers[name].value(np.array(places))
            if math.isfinite(value):
                metrics[key(source, name)] = value
        return metrics
