"""Nested dictionaries and the dotted paths into them, such as a composed configuration and
adapter.rank. Pure.
"""

from __future__ import annotations

from typing import Any


def dotted(loc: tuple[Any, ...]) -> str:
    """A pydantic location as a dotted path."""
    return ".".join(str(key) for key in loc)


def without(raw: Any, locs: list[tuple[Any, ...]]) -> Any:
    """A copy of nested dictionaries with the entries at `locs` taken out."""
    heads = {loc[0] for loc in locs if len(loc) == 1}
    if not isinstance(raw, dict):
        return raw
    copy = {}
    for key, value in raw.items():
        if key in heads:
            continue
        deeper = [loc[1:] for loc in locs if len(loc) > 1 and loc[0] == key]
        copy[key] = without(value, deeper) if deeper else value
    return copy


def assign(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set a nested entry by its dotted path, in place."""
    *groups, last = path.split(".")
    for group in groups:
        raw = raw[group]
    raw[last] = value


def lookup(raw: Any, path: str) -> bool:
    """Whether a dotted path names a leaf of nested dictionaries."""
    for key in path.split("."):
        if not isinstance(raw, dict) or key not in raw:
            return False
        raw = raw[key]
    return not isinstance(raw, dict)


def leaves(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one flat one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat
