"""Where several finalists meet the test rows (final.judged): all of them are scored, once, and of
those that the rows cannot tell from the best the smallest asks for the champion's alias.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.evaluation.scores import TestScores
from jobs.workers.evaluation_task import checked
from orchestrator.config.run_numbers import label
from orchestrator.evaluation import verdict
from orchestrator.evaluation.interfaces import Judge
from orchestrator.evaluation.promotion import Candidate, select
from orchestrator.output.sweep_result import TiedFinalists
from orchestrator.storage.journal import Record


@dataclass(frozen=True)
class JudgedFinalist:
    """A finalist that has met the test rows."""

    record: Record
    """The run whose best checkpoint was judged."""
    checkpoint: str
    """Its folder or URI."""
    scores: TestScores
    candidate: Candidate


def judge_finalists(evaluation: Judge, first: TestScores) -> list[JudgedFinalist]:
    """The finalists that meet the test rows, best by the validation split first. `first` are the
    scores of that one, which was judged beside the base.
    """
    sweep_state = evaluation.sweep_state
    records = [standing.best for standing in sweep_state.standings] or [sweep_state.best()]
    judged: list[JudgedFinalist] = []
    for record in records[: evaluation.config.final.judged]:
        assert record is not None  # a sweep that is judged has a best trial
        best = record.best(sweep_state.metric, sweep_state.maximise)
        assert best is not None
        step, _ = best
        name = label(record.index)
        checkpoint = evaluation.checkpoint(record.index, step)
        scores = first
        if judged:
            trial = sweep_state.trained(record.index)
            scores = evaluation.judge({name: checkpoint}, trial)[name]
        judged.append(
            JudgedFinalist(
                record,
                checkpoint,
                scores,
                Candidate(
                    name,
                    verdict.scores_of(scores, evaluation.digest),
                    verdict.megabytes_loaded(checked(checkpoint), Path(evaluation.base.path)),
                    scores.seconds,
                    verdict.slices_of(scores.predictions),
                ),
            )
        )
    return judged


def choose(
    judged: list[JudgedFinalist], evaluation: Judge
) -> tuple[JudgedFinalist, TiedFinalists | None]:
    """The finalist that asks for the alias, and what the result tells of the others; None where
    there are none.
    """
    if len(judged) == 1:
        return judged[0], None
    selection = select(
        [finalist.candidate for finalist in judged],
        [],
        evaluation.config.registry,
        evaluation.config.sweep.maximise,
    )
    chosen = next(finalist for finalist in judged if finalist.candidate is selection.chosen)
    return chosen, TiedFinalists(
        compared=selection.compared,
        tied=list(selection.tied),
        scores={finalist.candidate.name: finalist.scores.metrics() for finalist in judged},
    )
