"""What a sweep tells of its mixes: the response to each source's share, what was drawn of each, and
how its own validation rows fared.
"""

from __future__ import annotations

import re
from typing import Any

from jobs.evaluation import registry
from orchestrator.config.simplex import trials_needed
from orchestrator.report import importance
from orchestrator.report.metric_text import rounded
from orchestrator.report.mix_knobs import source_of
from orchestrator.report.sweep_data import SweepData, TrialData, finite

DRAWN = "data/drawn_"
BY_SOURCE = re.compile(rf"{registry.VALID}/source/(.+)/([^/]+)")
MOST_ROWS = 200
"""Trials in the table, the best ones."""


def mixture(data: SweepData, ranked: list[TrialData]) -> list[dict[str, Any]]:
    """How the score follows each source's share of the training rows, for sources whose share
    differs between trials.
    """
    shares: dict[str, dict[int, float]] = {}
    for trial in ranked:
        for name, share in shares_of(data, trial).items():
            shares.setdefault(name, {})[trial.index] = share
    return [
        {"source": name, "effect": importance.effect(ranked, values, False)}
        for name, values in shares.items()
        if len({round(value, 6) for value in values.values()}) > 1
    ]


def shares_of(data: SweepData, trial: TrialData) -> dict[str, float]:
    """Each source's share of the rows that a trial trains on: by its weights, or as it was drawn
    where those do not tell.
    """
    settings = trial.params | trial.point
    amounts = {
        source: weight
        for path, value in settings.items()
        if (source := source_of(path)) is not None and (weight := finite(value)) is not None
    }
    epochs = any(re.fullmatch(r"data\.sources\.[^.]+\.epochs", path) for path in settings)
    if epochs or exhausted(data) != "cycle":
        last = trial.reports.get(max(trial.reports, default=0), {})
        drawn = {name[len(DRAWN) :]: n for name, n in last.items() if name.startswith(DRAWN)}
        amounts = {name: count for name, count in drawn.items() if count is not None} or amounts
    total = sum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()} if total > 0 else {}


def exhausted(data: SweepData) -> str:
    """What happens to a source that is used up; "cycle" with a cap is no plain cycle."""
    settings = data.config.get("data")
    if not isinstance(settings, dict):
        return "cycle"
    capped = settings.get("max_epochs") is not None
    return "capped" if capped else str(settings.get("exhausted") or "cycle")


def mix_need(data: SweepData, ranked: list[TrialData], num_sources: int) -> str | None:
    """How many trials so many sources need, and whether these are enough; None without a mix."""
    if num_sources < 2:
        return None
    needed = trials_needed(num_sources)
    has = len(ranked)
    text = (
        f"A score that curves with the shares of {num_sources} sources takes about {needed} trials "
        f"to see; {has} have a score"
    )
    if has >= needed:
        return f"{text}."
    return f"{text}: take the best mix for a guess, and go on with sweep.num_trials={needed}."


def mix_table(data: SweepData, ranked: list[TrialData]) -> dict[str, Any]:
    """Of each trial its mix, how often it has seen the rows of each source, and what it scores on
    the validation rows of each.
    """
    head: list[str] = []
    rows = []
    for trial in ranked[:MOST_ROWS]:
        best = trial.reports.get(trial.best_step or 0, {})
        row: dict[str, float | None] = {}
        for source, share in sorted(shares_of(data, trial).items()):
            row[f"share of {source}"] = rounded(share)
        last = trial.reports.get(max(trial.reports, default=0), {})
        for name, value in sorted(last.items()):
            kind, _, source = name.removeprefix("data/").partition("_")
            if name.startswith("data/") and kind in ("drawn", "tokens", "epochs") and value:
                unit = {"drawn": "examples", "tokens": "tokens", "epochs": "epochs"}[kind]
                row[f"{unit} of {source}"] = rounded(value) if kind == "epochs" else int(value)
        for name, value in sorted(best.items()):
            match = BY_SOURCE.fullmatch(name)
            if match is not None:
                row[f"{match[2]} on {match[1]}"] = rounded(value)
        head += [column for column in row if column not in head]
        rows.append((trial, row))
    order = {"share": 0, "examples": 1, "tokens": 2, "epochs": 3}
    head.sort(key=lambda column: (order.get(column.partition(" ")[0], 4), column))
    cells = [[{"trial": t.index}, rounded(t.score), *map(row.get, head)] for t, row in rows]
    return {"head": ["trial", data.stem, *head], "rows": cells}
