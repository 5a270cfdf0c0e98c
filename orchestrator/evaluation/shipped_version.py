"""What an exported file scores and costs, told of its version: as metrics of its run, as a tag, in
its description, and on the screen.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.evaluation.model_card import LONGEST_DESCRIPTION
from orchestrator.output.shipped_text import line_of
from orchestrator.tracking.model_versions import Models, Version

HEADING = "## Shipped files"


def metrics(report: dict[str, Any]) -> dict[str, float]:
    """A report's numbers as MLflow metrics, under shipped/FORMAT/."""
    values: dict[str, Any] = {}
    scores = report.get("scores") or {}
    if scores:
        metric = scores["metric"].replace(":", ".")
        values |= {
            metric: scores["value"],
            f"{metric}_low": scores["low"],
            f"{metric}_high": scores["high"],
        }
        for name in ("rows", "difference", "difference_low", "difference_high", "same_answers"):
            if scores[name] is not None:
                values[name] = scores[name]
        if "bits_per_byte" in scores:
            values["bits_per_byte"] = scores["bits_per_byte"]
    measured = report.get("divergence") or report["check"]
    values |= {"divergence": measured["mean"], "equal_top_tokens": measured["equal"]}
    costs = report.get("costs") or {}
    values |= {name: costs[name] for name in ("size_mb", "peak_memory_mb") if name in costs}
    for count, speed in (costs.get("threads") or {}).items():
        values |= {f"{name}_{count}_threads": value for name, value in speed.items()}
    return {f"shipped/{report['format']}/{name}": float(value) for name, value in values.items()}


def record(store: Models | None, version: Version, report: dict[str, Any]) -> None:
    """Tell the version's run, tags and description. Raises TrackingError."""
    if store is None:
        return
    values = metrics(report)
    if version.run_id is not None:
        store.add_metrics(version.run_id, values)
    tag = {key.rpartition("/")[2]: round(value, 6) for key, value in values.items()}
    tags = {f"shipped.{report['format']}": json.dumps(tag)}
    text = store.description(version.name, version.version)
    store.describe(version.name, version.version, with_file(text, report), tags)


def with_file(text: str, report: dict[str, Any]) -> str:
    """A version's description with a line for this file; one of before for the same form is
    replaced.
    """
    head, _, listed = text.partition(f"\n{HEADING}\n")
    start = f"- {report['format']}: "
    lines = [line for line in listed.splitlines() if line.strip() and not line.startswith(start)]
    lines.append(start + line_of(report))
    section = f"\n{HEADING}\n\n" + "\n".join(sorted(lines)) + "\n"
    return head[: LONGEST_DESCRIPTION - len(section)] + section


def summary(report: dict[str, Any]) -> str:
    """What is printed at the end."""
    lines = [f"export  {report['folder']} ({report['format']} of {report['version']})"]
    lines += [f"        {part}" for part in line_of(report).split("; ")]
    if "note" in report:
        lines.append(f"note    {report['note']}")
    if report["file"].endswith(".gguf"):
        lines.append(f"try it  python -m orchestrator.chat {report['folder']}")
    return "\n".join(lines)
