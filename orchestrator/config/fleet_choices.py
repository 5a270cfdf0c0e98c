"""Choices and settings of a command with tasks that no task uses. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.chosen_files import ChosenFile
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.fleet import GROUPS, PATH, ROWS, SHORT, settings_of

NAME = "data.name"
FILES = "files"
"""The choice of data without rows."""


def choices_of_no_task(
    raw: dict[str, Any],
    overrides: Sequence[str],
    bases: Sequence[str],
    files: Sequence[ChosenFile] = (),
) -> list[tuple[str, str]]:
    """What was chosen for no task: rows, where each brings its own, settings that each has of its
    own, and a base model in the place of a registered model's name. `files` are those of the fleet.
    """
    written = raw["data"]["tasks"] if isinstance(raw["data"]["tasks"], dict) else {}
    entries = {name: entry for name, entry in written.items() if isinstance(entry, dict)}
    faults = idle_rows(entries, overrides, files) + idle_settings(entries, overrides, files)
    for name, entry in entries.items():
        model = entry.get("model")
        if model in bases:
            said = (
                f'"{model}" is a base model, which all tasks of a fleet share: write '
                f"model={model}; here stands the name under which the task's winner is registered"
            )
            faults.append((f"{PATH}.{name}.model", said))
    return faults


def idle_rows(
    entries: Mapping[str, dict[str, Any]], overrides: Sequence[str], files: Sequence[ChosenFile]
) -> list[tuple[str, str]]:
    """Choices of rows beside tasks that all bring their own; a typed one stands for the file's."""
    if not entries or not all(
        any(entry.get(setting) is not None for setting in ROWS) for entry in entries.values()
    ):
        return []
    pairs = [text.lstrip("+").partition("=") for text in overrides]
    typed = [choice for group, _, choice in pairs if group == "data"]
    chosen = {f"data={choice}": choice for choice in typed}
    if not typed:
        chosen = {
            f"/data: {choice} in {file.group}/{file.choice}.yaml": choice
            for file in files
            if (choice := file.choice_of("data")) is not None
        }
    return [
        ("data", f"{what} has no effect: each task of {PATH} has rows of its own; leave it out")
        for what, choice in chosen.items()
        if choice != FILES
    ]


def idle_settings(
    entries: Mapping[str, dict[str, Any]], overrides: Sequence[str], files: Sequence[ChosenFile]
) -> list[tuple[str, str]]:
    """Settings for all tasks of which each task has one of its own: whatever was typed, and in a
    file those of `data`. A file's sizes may be what a task that is added begins with.
    """
    given = {path: value for file in files for path, value in of_data(file).items()}
    for text in overrides:
        path, is_set, value = text.lstrip("+").partition("=")
        if is_set and "." in path and not text.startswith("~"):
            given[path] = value
    own = [own_settings(entry) for entry in entries.values()]
    faults = []
    for path, value in given.items():
        if value in (None, "", "null") or path == PATH or path.startswith(f"{PATH}."):
            continue
        inner = {long: short for short, long in SHORT.items()}.get(path, path.removeprefix("data."))
        write = f"write {PATH}.NAME.{inner}=..."
        if path == NAME:
            said = f"{value} has no effect: each task of {PATH} is called by its own name; {write}"
            faults.append((path, said))
        elif own and all(settings.get(path) is not None for settings in own):
            said = (
                f"{value} has no effect: each task of {PATH} has its own; leave it out, or {write}"
            )
            faults.append((path, said))
    return faults


def of_data(file: ChosenFile) -> dict[str, Any]:
    """What a file sets of `data` for all tasks."""
    return {path: value for path, value in file.settings().items() if path.startswith("data.")}


def own_settings(entry: dict[str, Any]) -> dict[str, Any]:
    """What a task sets by itself, by the dotted paths of a sweep."""
    data = {key: value for key, value in entry.items() if key not in ("weight", *SHORT, *GROUPS)}
    groups = {group: value for group, value in entry.items() if group in GROUPS}
    if not all(isinstance(value, dict) for value in groups.values()):
        return leaves({"data": data})  # which is said of the task
    return leaves({"data": data} | settings_of(entry))
