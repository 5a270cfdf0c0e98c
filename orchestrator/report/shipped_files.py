"""The exported files of a sweep and the devices that they are for, as the report shows them."""

from __future__ import annotations

from typing import Any

from orchestrator.report.sweep_data import SweepData, finite


def entries(data: SweepData) -> list[dict[str, Any]]:
    """Each file as cells of a table; of one that could not be made why."""
    shipped = data.result.get("shipped")
    listed = []
    for report in shipped if isinstance(shipped, list) else []:
        if not isinstance(report, dict):
            continue
        form = str(report.get("format"))
        if "refused" in report:
            listed.append({"format": form, "note": f"{form} was not made: {report['refused']}"})
        else:
            listed.append({"format": form, "cells": cells(form, report)})
    return listed


def cells(form: str, report: dict[str, Any]) -> list[Any]:
    """One file's row."""
    scores, costs = mapping(report.get("scores")), mapping(report.get("costs"))
    threads = mapping(costs.get("threads")).values()
    speeds = [finite(mapping(speed).get("tokens_per_second")) for speed in threads]
    difference = finite(scores.get("difference"))
    return [
        form,
        *(finite(scores.get(name)) for name in ("value", "low", "high")),
        None if difference is None else -difference,
        finite(costs.get("size_mb")),
        finite(costs.get("peak_memory_mb")),
        max((speed for speed in speeds if speed is not None), default=None),
        f"{report.get('folder')}/{report.get('file')}",
    ]


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, or an empty one."""
    return value if isinstance(value, dict) else {}


def devices(data: SweepData) -> list[str]:
    """Who has which device's alias, and why."""
    told = data.result.get("devices")
    lines = []
    for entry in told if isinstance(told, list) else []:
        if not isinstance(entry, dict):
            continue
        has = "has" if entry.get("holds") else "does not have"
        subject = f"{entry['model']}, as {entry['format']}," if entry.get("model") else "No file"
        lines.append(f"{subject} {has} the alias {entry.get('alias')}: {entry.get('reason')}")
    return lines
