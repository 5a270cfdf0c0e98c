"""What of a sweep's files quotes its rows, or is put before their prompts: taken out of an archive
that others may see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from jobs.files.json_types import JsonObject
from orchestrator.config.compose import as_yaml
from orchestrator.config.yaml_text import parse

LEFT_OUT = "(left out)"
FIELDS = ("notes", "instruction", "description", "prompt", "messages")
"""Keys whose texts quote rows or stand before them, wherever they are."""
SHORTEST = 8
"""Characters of a text that is looked for wherever else it may stand."""


def without_rows(texts: Mapping[str, str]) -> dict[str, str]:
    """The files of an archive, by their names, without what `FIELDS` hold, also where a command or
    a trial's settings repeat it. What cannot be read is left out as a whole.
    """
    contents = {name: list(read(name, text)) for name, text in texts.items()}
    said = {text for values in contents.values() for value in values for text in told(value)}
    return {
        name: written(name, [cut(value, said) for value in contents[name]], text)
        for name, text in texts.items()
    }


def read(name: str, text: str) -> Iterator[Any]:
    """The values that a file holds: one, or one a line."""
    if name.endswith(".jsonl"):
        for line in text.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                yield {"damaged": f"{len(line)} characters"}
    elif name.endswith((".json", ".yaml")) and text:
        try:
            yield json.loads(text) if name.endswith(".json") else parse(text)
        except (ValueError, yaml.YAMLError):
            yield {"damaged": f"{len(text)} characters"}


def written(name: str, values: list[Any], text: str) -> str:
    """A file with these values; one that is neither JSON nor YAML as it was."""
    if name.endswith(".jsonl"):
        return "".join(json.dumps(value) + "\n" for value in values)
    if not values:
        return text
    return json.dumps(values[0], indent=1) if name.endswith(".json") else as_yaml(values[0])


def told(value: Any, key: str = "") -> Iterator[str]:
    """The texts that `FIELDS` hold, and those that a sweep tries as instructions."""
    if isinstance(value, str):
        if key == "config":
            yield from told(composed(value))
        elif key in FIELDS and len(value) >= SHORTEST:
            yield value
    elif isinstance(value, list):
        for entry in value:
            yield from told(entry, key)
    elif isinstance(value, dict):
        is_knob = str(value.get("path")).rpartition(".")[2] in FIELDS
        for name, entry in value.items():
            inner = "instruction" if is_knob and name in ("values", "first") else name
            yield from told(entry, str(inner).rpartition(".")[2])


def cut(value: Any, said: set[str], key: str = "") -> Any:
    """A value without those texts, and without what `FIELDS` hold."""
    if key in FIELDS and value:
        return LEFT_OUT
    if isinstance(value, dict):
        return {
            name: cut(entry, said, str(name).rpartition(".")[2]) for name, entry in value.items()
        }
    if isinstance(value, list):
        return [cut(entry, said) for entry in value]
    if not isinstance(value, str):
        return value
    if key == "config":
        return as_yaml(cut(composed(value), said))
    for text in sorted(said, key=len, reverse=True):
        value = value.replace(text, LEFT_OUT)
    return value


def composed(text: str) -> JsonObject:
    """A configuration that a journal holds as YAML."""
    try:
        settings = parse(text)
    except (ValueError, yaml.YAMLError):
        return {"damaged": f"{len(text)} characters"}
    return settings if isinstance(settings, dict) else {"damaged": f"{len(text)} characters"}
