"""What a sweep has done about faults while it ran, by kind, counted from its journal's notes."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from orchestrator.report.sweep_data import SweepData

KINDS = (
    ("smaller portions after running out of memory", r"out of memory.*tokens_per_step"),
    ("fewer trials at once after running out of memory", r"out of memory \(.*\): goes on with"),
    ("out of memory in an evaluation, smaller portions", r"out of memory in the evaluation"),
    ("a lost worker, on from the last checkpoint", r"goes on from the last checkpoint"),
    ("a damaged checkpoint, on from an earlier one", r"is damaged .*goes on from"),
    ("checkpoints removed from a full disk", r"can no longer win are removed"),
    ("tried again what the storage refused", r"tries again in"),
    ("ended inside a rung by its losses", r"^stopped inside a rung"),
    ("ended by the budget", r"^ended by the budget"),
    ("dropped on request", r"^dropped on request"),
)
"""What was done, and the notes that say so; the first that fits counts."""
SKIPPED = re.compile(r"rows? (?:was|were) skipped \(data\.bad_rows=")


def actions(data: SweepData) -> list[dict[str, Any]]:
    """Each kind of action that was taken: what, how often, and for which trials."""
    counts: dict[str, int] = defaultdict(int)
    indices: dict[str, set[int]] = defaultdict(set)
    noted = [(None, note) for note in data.sweep_notes]
    noted += [(trial.index, note) for trial in data.trials for note in trial.notes]
    for index, note in noted:
        kind = next((name for name, pattern in KINDS if re.search(pattern, note)), None)
        if kind is None:
            continue
        counts[kind] += 1
        indices[kind] |= set() if index is None else {index}
    entries = [
        {"action": name, "count": counts[name], "trials": sorted(indices[name])}
        for name, _ in KINDS
        if counts[name]
    ]
    entries += [
        {"action": note, "count": 1, "trials": []} for note in data.notes if SKIPPED.search(note)
    ]
    failed = [trial for trial in data.trials if "not finite" in (trial.error or "")]
    if failed:
        entries.append(
            {
                "action": "failed since its loss was no number; the worst score, for the search",
                "count": len(failed),
                "trials": [trial.index for trial in failed],
            }
        )
    return entries
