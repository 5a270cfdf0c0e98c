"""YAML of the project's own configuration files, read by libyaml where PyYAML has it: in Python
alone it takes eight times as long, and every command reads them.
"""

from __future__ import annotations

from typing import Any


def parse(text: str) -> dict[str, Any]:
    """The settings that a file's text holds; empty where it holds none."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, loader) or {}  # noqa: S506  # a safe loader, in C where there is one
