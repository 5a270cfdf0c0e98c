"""A simplex of the search space as the report takes it: a knob for each source. Pure."""

from __future__ import annotations

import re
from typing import Any

from orchestrator.config.search_space import weight_path


def source_of(path: str) -> str | None:
    """The source whose weight stands at a dotted path."""
    match = re.fullmatch(r"data\.sources\.([^.]+)\.weight", path)
    return None if match is None else match[1]


def simplex_knobs(name: str, knob: dict[str, Any], searched: set[str]) -> dict[str, dict[str, Any]]:
    """The sources of a simplex as knobs of their own. With two of them the second one follows."""
    listed = knob.get("simplex")
    sources = [source for path in sorted(searched) if (source := source_of(path)) is not None]
    if isinstance(listed, list):
        sources = [source for source in sources if source in listed]
    bounds = knob.get("bounds") if isinstance(knob.get("bounds"), dict) else {}
    knobs = {}
    for source in sources:
        own = (bounds or {}).get(source)
        own = own if isinstance(own, dict) else {}
        follows = len(sources) == 2 and source == sources[1]
        knobs[f"{name}.{source}"] = {
            "path": weight_path(source),
            "type": "linked" if follows else "uniform",
            "low": own.get("low", 0.0),
            "high": own.get("high", 1.0),
            "setting": f"sweep.space.{name}.bounds.{source}",
        }
    return knobs
