"""Two sweeps beside each other: settings that differ, scores with intervals, and, where both have
answered the same test rows, which is better on them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orchestrator.config.dotted_paths import leaves
from orchestrator.report.answers import is_right
from orchestrator.report.judged import metrics_of
from orchestrator.report.metric_text import is_counted, rounded, shown, wilson
from orchestrator.report.sweep_data import SweepData, read_sweep

ONCE = ("dry_run", "fresh", "output", "retry", "storage")
"""Settings that do not change what a sweep finds."""
SIGNIFICANT = 0.05

Comparison = dict[str, Any]
DEFAULT = "default"
"""Stands for a setting that neither the files nor the command line gave."""


def compare(one: Path, other: Path) -> Comparison:
    """What differs between the sweeps of two folders."""
    pair = [read_sweep(one), read_sweep(other)]
    result = {
        "sweeps": [data.name for data in pair],
        "settings": settings(pair),
        "scores": [scores(data) for data in pair],
        "paired": paired(pair),
    }
    return result | {"verdict": verdict(pair, result)}


def settings(pair: list[SweepData]) -> dict[str, list[Any]]:
    """Settings that are not the same, those of the winners among them."""
    flat = []
    for data in pair:
        values = {p: v for p, v in leaves(data.config).items() if p.split(".")[0] not in ONCE}
        winner = data.winner()
        point = {} if winner is None else winner.params | winner.point
        flat.append(values | {f"winner: {path}": value for path, value in point.items()})
    paths = list(dict.fromkeys([*flat[0], *flat[1]]))
    return {
        path: [values.get(path, DEFAULT) for values in flat]
        for path in paths
        if flat[0].get(path) != flat[1].get(path)
    }


def scores(data: SweepData) -> dict[str, Any]:
    """The winner of one sweep."""
    winner = data.winner()
    metrics = metrics_of(data.result.get("best"))
    entry: dict[str, Any] = {
        "sweep": data.name,
        "state": data.state,
        "trials": len(data.trials),
        "winner": None if winner is None else winner.index,
        "metric": data.stem,
    }
    valid = data.value_in(metrics, "valid")
    if valid is None and winner is not None:
        valid = winner.score
    test = data.value_in(metrics, "test")
    for split, value in (("valid", valid), ("test", test)):
        ends = [data.value_in(metrics, split, end) for end in ("_low", "_high")]
        rows = data.rows.get(split)
        if None in ends and value is not None and rows and is_counted(data.metric):
            ends = list(wilson(value, rows))
        entry[split] = {
            "value": rounded(value),
            "low": rounded(ends[0]),
            "high": rounded(ends[1]),
            "rows": rows,
        }
    return entry


def paired(pair: list[SweepData]) -> dict[str, Any] | None:
    """The answers of both to the same test rows, by McNemar's exact test (1947); None where the
    rows are not the same. The same prompt with the same reference counts as the same row.
    """
    by_row = []
    for data in pair:
        rows: dict[tuple[str, str, int], bool] = {}
        repeats: dict[tuple[str, str], int] = {}
        for row in data.predictions:
            key = str(row.get("text")), str(row["reference"])
            repeats[key] = repeats.get(key, 0) + 1
            rows[*key, repeats[key]] = is_right(row)
        by_row.append(rows)
    common = by_row[0].keys() & by_row[1].keys()
    if not common:
        return None
    first = sum(by_row[0][key] and not by_row[1][key] for key in common)
    second = sum(by_row[1][key] and not by_row[0][key] for key in common)
    return {
        "rows": len(common),
        "all_rows": [len(rows) for rows in by_row],
        "both_right": sum(by_row[0][key] and by_row[1][key] for key in common),
        "only_first": first,
        "only_second": second,
        "p_value": rounded(mcnemar(first, second)),
    }


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided probability of so uneven a split of the rows on which two differ."""
    count, low = first + second, min(first, second)
    if count == 0:
        return 1.0
    logs = [
        math.lgamma(count + 1) - math.lgamma(n + 1) - math.lgamma(count - n + 1)
        for n in range(low + 1)
    ]
    tail = sum(math.exp(log - count * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)


def verdict(pair: list[SweepData], result: Comparison) -> str:
    """Which one is better, as far as the data can show."""
    names = result["sweeps"]
    same_rows = result["paired"]
    if pair[0].stem != pair[1].stem:
        metrics = f"{pair[0].stem} and {pair[1].stem}"
        return f"they were decided by different metrics, {metrics}: their scores do not compare"
    if same_rows is not None and is_counted(pair[0].metric):
        counts = same_rows["only_first"], same_rows["only_second"]
        counted = (
            f"of {same_rows['rows']:,} common test rows {names[0]} alone has {counts[0]} right and "
            f"{names[1]} alone {counts[1]} (p = {shown(same_rows['p_value'])})"
        )
        if same_rows["p_value"] >= SIGNIFICANT:
            return f"tied: {counted}"
        return f"{names[int(counts[1] > counts[0])]} is better: {counted}"
    ends = [entry["test"] for entry in result["scores"]]
    if any(end["value"] is None for end in ends):
        return "not both were judged on the test split: their scores do not compare yet"
    if any(end["low"] is None for end in ends):
        sign = 1 if pair[0].maximise else -1
        ahead = int(sign * (ends[1]["value"] - ends[0]["value"]) > 0)
        return f"{names[ahead]} has the better test score; whether by chance cannot be told"
    all_rows_common = same_rows is not None and {same_rows["rows"]} == set(same_rows["all_rows"])
    rows = "the same rows" if all_rows_common else "rows that are not the same"
    if ends[0]["low"] <= ends[1]["high"] and ends[1]["low"] <= ends[0]["high"]:
        return f"their intervals overlap, on {rows}: no difference is shown"
    sign = 1 if pair[0].maximise else -1
    ahead = int(sign * (ends[1]["value"] - ends[0]["value"]) > 0)
    return f"{names[ahead]} is better: the intervals do not overlap (on {rows})"


def text(comparison: Comparison) -> str:
    """A comparison for a terminal."""
    names = comparison["sweeps"]
    width = max([24, *(len(path) for path in comparison["settings"])]) + 2
    side = max(len(names[0]), 24) + 2
    lines = [f"{'':<{width}}{names[0]:<{side}}{names[1]}"]
    for split in ("valid", "test"):
        cells = [score_text(entry[split]) for entry in comparison["scores"]]
        metrics = dict.fromkeys(entry["metric"] for entry in comparison["scores"])
        label = f"{split}/{' and '.join(metrics)}"
        lines.append(f"{label:<{width}}{cells[0]:<{side}}{cells[1]}")
    for path, values in comparison["settings"].items():
        cells = [shown(value) for value in values]
        lines.append(f"{path:<{width}}{cells[0]:<{side}}{cells[1]}")
    return "\n".join([*lines, "", comparison["verdict"]])


def score_text(score: dict[str, Any]) -> str:
    """A score with its interval."""
    if score["value"] is None:
        return "none"
    interval = "" if score["low"] is None else f" ({score['low']:.3f}..{score['high']:.3f})"
    return f"{score['value']:.4g}{interval}"
