"""Held-out rows that stand in the training files too: with the very same prompt, or nearly.

Training rows with the same prompt are dropped before anything trains, those that are nearly the
same stay; both say that the held-out rows are no new questions.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from jobs.data.checks.result import CheckResult, asked, excerpt, place, share
from jobs.data.corpus import Corpus
from jobs.data.near_duplicates import Twin, notes_of, twins_of
from jobs.data.readers import Row

MOST_PAIRS = 5
"""Pairs of a split that job=check shows."""


def check(corpus: Corpus) -> CheckResult:
    """How many held-out rows have a near-twin in the training files, for each split, with some of
    them.
    """
    held_out = [*corpus.valid, *corpus.test]
    trained = (row for rows in corpus.sources.values() for row in rows)
    twins = twins_of(held_out, chain(trained, corpus.leaked))
    dropped = {id(row) for row in corpus.leaked}
    keys = {row.key for row in corpus.leaked}
    result = CheckResult("leakage", "")
    summaries = []
    for split, rows in (("valid", corpus.valid), ("test", corpus.test)):
        ids = {id(row) for row in rows}
        of_split = [twin for twin in twins if id(twin.held_out) in ids]
        same = {id(row) for row in rows if row.key in keys}
        leaked = len(same | {id(twin.held_out) for twin in of_split})
        counts = {"rows": len(rows), "leaked": leaked, "same_prompt": len(same)}
        result.numbers[split] = counts
        result.warnings += notes_of(
            split, rows, [twin for twin in of_split if id(twin.trained) not in dropped]
        )
        result.details += [f"{split}: {pair(twin)}" for twin in of_split[:MOST_PAIRS]]
        summaries.append(f"{split} {share(leaked, len(rows))}")
    result.summary = "standing in the training files too, or nearly: " + ", ".join(summaries)
    return result


def pair(twin: Twin) -> str:
    """A held-out row and the training row that is nearly the same."""
    return f"{shown(twin.held_out)} and {shown(twin.trained)}"


def shown(row: Row) -> str:
    """What a row asks, and where it stands."""
    return f"{excerpt(asked(row))} ({place(row)})"


def refusal(numbers: dict[str, Any], details: list[str], most: float) -> str:
    """Why so much leakage is refused; empty where no split has more than the share `most`."""
    over = {
        split: counts
        for split, counts in numbers.items()
        if counts["leaked"] > most * counts["rows"]
    }
    if not over:
        return ""
    listed = "; ".join(
        f"{split}: {share(counts['leaked'], counts['rows'])}, {counts['same_prompt']:,} of them "
        "with the very same prompt"
        for split, counts in over.items()
    )
    first = next(
        (line for line in details if line.partition(":")[0] in over), "no example"
    ).partition(": ")[2]
    return (
        f"held-out rows stand in the training files too, in the same words or nearly ({listed}), "
        f"such as {first}; take them out of the training files, or cut the splits anew. "
        f"data.checks.leakage_share={most:g} is the most that is taken; data.checks.off=[leakage] "
        "trains all the same"
    )
