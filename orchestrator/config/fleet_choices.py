"""Choices of a command with tasks that no task uses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.config.fleet import PATH, ROWS


def choices_of_no_task(
    raw: dict[str, Any], overrides: Sequence[str], bases: Sequence[str]
) -> list[tuple[str, str]]:
    """What was chosen for no task: rows, where each brings its own, and a base model in the place
    of a registered model's name.
    """
    written = raw["data"]["tasks"] if isinstance(raw["data"]["tasks"], dict) else {}
    entries = {name: entry for name, entry in written.items() if isinstance(entry, dict)}
    faults = []
    bring_rows = [
        any(entry.get(setting) is not None for setting in ROWS) for entry in entries.values()
    ]
    for text in overrides:
        group, _, choice = text.lstrip("+").partition("=")
        if group == "data" and choice != "files" and bring_rows and all(bring_rows):
            said = f"data={choice} has no effect: each task of {PATH} has rows of its own; "
            faults.append(("data", f"{said}leave it out"))
    for name, entry in entries.items():
        model = entry.get("model")
        if model in bases:
            said = (
                f'"{model}" is a base model, which all tasks of a fleet share: write '
                f"model={model}; here stands the name under which the task's winner is registered"
            )
            faults.append((f"{PATH}.{name}.model", said))
    return faults
