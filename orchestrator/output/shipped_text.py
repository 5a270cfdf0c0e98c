"""What is said of exported files and of the devices that they are for."""

from __future__ import annotations

from typing import Any

from orchestrator.output.sweep_result import SweepResult


def shipping_lines(result: SweepResult) -> list[tuple[str, str]]:
    """The files of a sweep, and who has which device's alias and why."""
    lines = []
    for report in result.shipped:
        if "refused" in report:
            lines.append(("shipped", f"{report['format']} was not made: {report['refused']}"))
            continue
        lines.append(("shipped", f"{report['format']} of {report['version']}: {line_of(report)}"))
        lines.append(("file", f"{report['folder']}/{report['file']}"))
    for told in result.devices:
        lines += device_lines(told)
    return lines


def device_lines(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Whether a version has a device's alias, and why."""
    if told["holds"]:
        head = f"{told['model']} has the alias {told['alias']}, as {told['format']}"
    elif told["format"] is None:
        head = f"nobody gets the alias {told['alias']}: no file is within its limits"
    else:
        head = f"{told['model']} does not get the alias {told['alias']}, as {told['format']}"
    reasons = told.get("reasons") or [told["reason"]]
    return [(told["device"][:7], head), *(("why", str(reason)) for reason in reasons)]


def interval_of(scores: dict[str, Any]) -> str:
    """The interval around the difference, in brackets; nothing where there is none."""
    if scores["difference_low"] is None:
        return ""
    return f" ({scores['difference_low']:+.3f} to {scores['difference_high']:+.3f})"


def line_of(report: dict[str, Any]) -> str:
    """Score and costs in one line."""
    parts = []
    scores = report.get("scores")
    if scores:
        parts.append(
            f"{scores['metric']} {scores['value']:.3f} ({scores['low']:.3f} to "
            f"{scores['high']:.3f}, {scores['rows']:,} rows), {scores['difference']:+.3f}"
            f"{interval_of(scores)} from the trained model"
        )
    measured = report.get("divergence") or report["check"]
    parts.append(
        f"divergence {measured['mean']:.2g} nats per token, {measured['equal']:.1%} equal top "
        "tokens"
    )
    costs = report.get("costs") or {}
    if costs:
        parts.append(f"{costs['size_mb']:,.1f} MB on disk")
    if "peak_memory_mb" in costs:
        parts.append(f"{costs['peak_memory_mb']:,.0f} MB of memory")
    parts += [
        f"{speed['tokens_per_second']:.1f} tokens/s on {count} threads"
        for count, speed in (costs.get("threads") or {}).items()
    ]
    return "; ".join(parts)
