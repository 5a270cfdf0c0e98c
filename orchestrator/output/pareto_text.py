"""What is said of a sweep over several base models: its plan, its front, and each device's file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jobs.files.json_types import JsonObject
from orchestrator.config.device_settings import Profile
from orchestrator.output.console import duration, plural
from orchestrator.output.plan_text import headline, plan_record
from orchestrator.output.shipped_text import device_lines
from orchestrator.plan.budget import budget_lines
from orchestrator.plan.planner import Plan
from orchestrator.plan.shipping import ShippingPlan

Plans = Sequence[tuple[Plan, ShippingPlan]]
COLUMNS = ("base", "format", "score", "interval", "drop", "MB", "memory", "tokens/s", "front")


def plan_text(plans: Plans, infeasible: dict[str, str]) -> str:
    """The plans of all bases, a line for each base, format and device."""
    lines = [f"pareto  {plural(len(plans), 'base')}, one front over their files"]
    seconds = 0.0
    for plan, shipping in plans:
        model = plan.config.model.name
        time = "time unknown before the base is here"
        if plan.estimate is not None:
            time = f"about {duration(plan.estimate.seconds)}"
            seconds += plan.estimate.seconds
        lines.append(f"base    {model}: {headline(plan)} · {time}")
        lines += [f"ships   {model}: {size_text(shipping, form)}" for form in shipping.formats]
        lines += [
            f"ships   {model}: {form} is not made: {why}" for form, why in shipping.left_out.items()
        ]
    lines += [f"base    {name} is not trained: {why}" for name, why in infeasible.items()]
    for profile in profiles(plans):
        fitting = [
            f"{plan.config.model.name} as {' or '.join(shipping.fits(profile))}"
            for plan, shipping in plans
            if shipping.fits(profile)
        ]
        told = ", ".join(fitting) or "no file can be so small"
        lines.append(f"device  {profile.label}: {profile} -> alias {profile.alias}; may be {told}")
    for plan, _ in plans:
        spent = budget_lines(
            plan.config, plan.resources, plan.timing, plan.estimate, plan.account, plan.merge
        )
        lines += [f"budget  {plan.config.model.name}: {line}" for line in spent]
    if seconds:
        lines.append(f"time    about {duration(seconds)} in all, and the files on top of it")
    notes = dict.fromkeys(note for plan, _ in plans for note in plan.notes)
    return "\n".join([*lines, *(f"note    {note}" for note in notes)])


def size_text(shipping: ShippingPlan, form: str) -> str:
    """A format with the size that its file has at least."""
    if form not in shipping.sizes:
        return form
    return f"{form}, at least {shipping.sizes[form]:,.1f} MB"


def profiles(plans: Plans) -> list[Profile]:
    """The devices, which all bases have alike."""
    return next((list(shipping.profiles) for _, shipping in plans), [])


def plan_json(plans: Plans, infeasible: dict[str, str]) -> str:
    """The same as one line of JSON."""
    record: JsonObject = {
        "bases": {
            plan.config.model.name: plan_record(plan) | {"ships": shipping.record()}
            for plan, shipping in plans
        },
        "not_trained": infeasible,
    }
    return json.dumps({"plan": record})


def result_text(record: JsonObject) -> str:
    """The front as a table, and who has which device's alias and why."""
    best_first = "higher" if record["maximise"] else "lower"
    lines = [f"pareto  {record['pareto']}: {record['metric']}, {best_first} is better"]
    rows = [COLUMNS, *(row_of(entry) for entry in ordered(record))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"        {'  '.join(cells)}".rstrip())
    lines += [
        f"base    {name} was not trained: {why}" for name, why in record["not_trained"].items()
    ]
    lines += [f"file    {name} was not made: {why}" for name, why in record["not_made"].items()]
    for told in record["devices"]:
        lines += [f"{label:<8}{line}" for label, line in device_lines(told)]
    lines.append(f"report  {record['report']}")
    return "\n".join(lines)


def ordered(record: JsonObject) -> list[dict[str, Any]]:
    """The files, the smallest first."""
    return sorted(record["files"], key=lambda entry: entry["size_mb"] or 0.0)


def row_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """One file's cells."""
    interval = ""
    if entry["low"] is not None and entry["low"] < entry["high"]:
        interval = f"{entry['low']:.3f}..{entry['high']:.3f}"
    return (
        str(entry["base"]),
        str(entry["format"]),
        number(entry["score"], ".3f"),
        interval,
        number(entry["drop"], "+.3f"),
        number(entry["size_mb"], ",.1f"),
        number(entry["memory_mb"], ",.0f"),
        number(entry["tokens_per_second"], ",.1f"),
        "yes" if entry["front"] else "",
    )


def number(value: float | None, form: str) -> str:
    """A number, or nothing where it is not known."""
    return "" if value is None else format(value, form)
