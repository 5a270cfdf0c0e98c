"""What was judged on the test split, and how an alert is written."""

from __future__ import annotations

from typing import Any

from orchestrator.output.best_lines import BASELINES
from orchestrator.report.sweep_data import SweepData

Alert = dict[str, Any]
"""kind, level ("warning" or "note"), text, and where there is a remedy command."""


def alert(kind: str, text: str, command: str | None = None, level: str = "warning") -> Alert:
    """One alert."""
    return {"kind": kind, "level": level, "text": text, "command": command}


def test_values(data: SweepData) -> dict[str, float]:
    """The sweep's metric on the test split by who was judged: "candidate", the base, baselines."""
    best = data.result.get("best")
    values = {"candidate": data.value_in(metrics_of(best), "test")}
    values["the untouched base"] = data.value_in(metrics_of(data.result.get("base")), "test")
    baselines = data.result.get("baselines")
    for name, entry in baselines.items() if isinstance(baselines, dict) else []:
        values[BASELINES.get(str(name), str(name))] = data.value_in(metrics_of(entry), "test")
    return {name: value for name, value in values.items() if value is not None}


def metrics_of(entry: Any) -> Any:
    """The metrics of a result's entry, which holds them itself or under "metrics"."""
    if isinstance(entry, dict) and isinstance(entry.get("metrics"), dict):
        return entry["metrics"]
    return entry
