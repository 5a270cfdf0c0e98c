"""Signs that held-out rows are not held out. Pure."""

from __future__ import annotations

import re

from orchestrator.report.judged import Alert, alert, test_values
from orchestrator.report.metric_text import is_counted, is_share, noise, shown
from orchestrator.report.sweep_data import SweepData

TOO_GOOD = 0.99
FEW_ROWS = 50
NEAR_TWINS = re.compile(r"(\w+): ([\d,]+) of ([\d,]+) rows have a near-twin that is trained on")


def leaks(data: SweepData) -> list[Alert]:
    """Signs that held-out rows are not held out."""
    issued = []
    for note in data.notes:
        twins = NEAR_TWINS.search(note)
        if twins and (total := int(twins[3].replace(",", ""))):
            share = int(twins[2].replace(",", "")) / total
            if share >= 0.01:
                text = f"{share:.1%} of the {twins[1]} rows have a near-twin that is trained on"
                issued.append(alert("leak_suspected", f"{text}: scores may be too good"))
    values = test_values(data)
    candidate, rows = values.get("candidate"), data.rows.get("test", 0)
    if candidate is not None and is_share(data.metric) and rows >= FEW_ROWS:
        if data.maximise and candidate >= TOO_GOOD:
            issued.append(
                alert(
                    "leak_suspected",
                    f"{shown(candidate)} {data.stem} on {rows:,} test rows is suspiciously good: "
                    "look whether the answer stands in the prompt or the rows in the training data",
                )
            )
        issued += [*valid_above_test(data, candidate, rows), *answers_in_prompts(data)]
    return issued


def valid_above_test(data: SweepData, candidate: float, rows: int) -> list[Alert]:
    """A validation score that the test split does not hold by far."""
    winner, num_valid = data.winner(), data.rows.get("valid")
    if winner is None or winner.score is None or not num_valid or not is_counted(data.metric):
        return []
    gap = winner.score - candidate
    if gap <= 2 * noise(winner.score, candidate, min(rows, num_valid)):
        return []
    return [
        alert(
            "leak_suspected",
            f"the winner has {shown(winner.score)} {data.stem} on validation rows and "
            f"{shown(candidate)} on test rows: validation rows may stand in the training data, or "
            "the splits differ",
        )
    ]


def answers_in_prompts(data: SweepData) -> list[Alert]:
    """Long answers that stand in their prompts word for word. What stands in all prompts, such as
    the labels to choose from, gives no answer away.
    """
    longer_answers = [
        row
        for row in data.predictions
        if isinstance(row.get("text"), str)
        and isinstance(row["reference"], str)
        and len(row["reference"].strip()) >= 3
    ]
    if len(longer_answers) < FEW_ROWS:
        return []
    listed = {
        answer
        for answer in {row["reference"].strip() for row in longer_answers}
        if all(answer in row["text"] for row in longer_answers)
    }
    inside = sum(
        row["reference"].strip() in row["text"] and row["reference"].strip() not in listed
        for row in longer_answers
    )
    share = inside / len(longer_answers)
    if share < 0.5:
        return []
    return [
        alert(
            "leak_suspected",
            f"in {share:.0%} of the test rows the answer stands in the prompt word for word: is it "
            "part of the question?",
            None,
            "note",
        )
    ]
