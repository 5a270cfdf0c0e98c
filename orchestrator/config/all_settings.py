"""The settings that a composed configuration does not name, as `--cfg job` lists them below it.

They stand there as comments: a setting of a file counts as chosen by whoever wrote it, and what was
printed can be kept as a file.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from orchestrator.config.settings import SECTIONS, Config

HEADING = "# Not set above, and so at their defaults (null: none, or left to the program):"


def defaults_as_comments(raw: dict[str, Any]) -> str:
    """YAML comments, one setting a line, as it is typed."""
    lines = [f"# {path}={typed(value)}" for path, value in unset(raw).items()]
    return "\n".join([HEADING, *lines, ""])


def unset(raw: dict[str, Any], kind: type = Config, before: str = "") -> dict[str, Any]:
    """The settings of `kind` that `raw` leaves out, by dotted path, with their defaults."""
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(kind):
        if not entry.init:
            continue
        default = default_of(entry)
        nested = SECTIONS.get(entry.name) if kind is Config else None
        nested = nested or type(default)
        path = f"{before}{entry.name}"
        given = raw.get(entry.name, {})
        if dataclasses.is_dataclass(nested):
            found |= unset(given, nested, f"{path}.") if isinstance(given, dict) else {}
        elif entry.name not in raw and default is not dataclasses.MISSING:
            found[path] = default
    return found


def default_of(entry: dataclasses.Field[Any]) -> Any:
    """The value of a setting that nobody gives; MISSING where it must be given."""
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return entry.default


def typed(value: Any) -> str:
    """A default as it is typed behind the name of its setting."""
    return json.dumps(value, separators=(",", ":")).replace('"', "")
