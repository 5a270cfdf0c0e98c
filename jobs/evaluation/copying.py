"""What a model that is shown neighbours adds over copying them."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.data.readers import Row
from jobs.data.tokenization import Example
from jobs.evaluation.scored_rows import ScoredRow, as_label

SHOWN = "neighbours_shown"
HOLD = "neighbours_hold"
NEAREST = "neighbours_nearest"
COPIED = "neighbours_copied"
FURTHER_ROWS = "neighbours_further_rows"
FURTHER = "neighbours_further"
ALL = (SHOWN, HOLD, NEAREST, COPIED, FURTHER_ROWS, FURTHER)
"""Names of the metrics below."""


def copying(
    asked: Sequence[Row], examples: Sequence[Example], rows: Sequence[ScoredRow]
) -> dict[str, float]:
    """Of rows that were asked with neighbours: how many these were on average, how often the right
    answer is among theirs and how often it is the nearest one's, how often the nearest one's was
    answered, and of the rows whose right answer is another neighbour's how many there are and how
    often that was answered. Neighbours that had no room in the prompt count as not shown. Nothing
    where no row has neighbours.
    """
    if not any(row.neighbours for row in asked):
        return {}
    hold = nearest = copied = further = further_right = 0
    for row, example, scored in zip(asked, examples, rows, strict=True):
        by_rank = sorted(row.neighbours, key=lambda one: one.rank)[: example.num_neighbours]
        answers = [as_label(one.answer) for one in by_rank]
        hold += scored.label in answers
        if answers:
            nearest += scored.label == answers[0]
            copied += scored.predicted == answers[0]
        if scored.label in answers and scored.label != answers[0]:
            further += 1
            further_right += scored.predicted == scored.label
    count = len(rows)
    metrics = {
        SHOWN: sum(example.num_neighbours for example in examples) / count,
        HOLD: hold / count,
        NEAREST: nearest / count,
        COPIED: copied / count,
        FURTHER_ROWS: float(further),
    }
    if further:
        metrics[FURTHER] = further_right / further
    return metrics
