"""Which share of the layers carries adapters where that is left open: `adapter.layers=auto`.

Works on composed dictionaries, before they are read as settings.
"""

from __future__ import annotations

from typing import Any

AUTO = "auto"
LAYERS = "adapter.layers"
COUNT = "data.neighbours.count"
FEW_LAYERS, MORE_LAYERS = 0.2, 0.5
"""To choose among neighbours is not learnt in the few layers that do for other tasks, by
docs/defaults.md.
"""


def with_layers(raw: dict[str, Any], problems: list[tuple[str, str]]) -> dict[str, Any]:
    """`raw` with `adapter.layers=auto` as the share of the layers that it stands for; another word
    goes to `problems`.
    """
    adapter = raw.get("adapter")
    given = adapter.get("layers") if isinstance(adapter, dict) else None
    if not isinstance(adapter, dict) or not isinstance(given, str) or is_number(given):
        return raw
    if given != AUTO:
        problems.append((LAYERS, f"must be a number or {AUTO}, got {given!r}"))
    share = MORE_LAYERS if shows_neighbours(raw) else FEW_LAYERS
    return raw | {"adapter": adapter | {"layers": share}}


def with_same_layers(raws: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tasks of a fleet with `adapter.layers=auto` as the most that it stands for in any of them:
    the trials of a pack have adapters in the same layers.
    """
    left_open = {
        name: raw["adapter"]
        for name, raw in raws.items()
        if isinstance(raw.get("adapter"), dict) and raw["adapter"].get("layers") == AUTO
    }
    if not left_open:
        return raws
    most = MORE_LAYERS if any(shows_neighbours(raws[name]) for name in left_open) else FEW_LAYERS
    return raws | {
        name: raws[name] | {"adapter": adapter | {"layers": most}}
        for name, adapter in left_open.items()
    }


def is_number(text: str) -> bool:
    """Whether a text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def shows_neighbours(raw: dict[str, Any]) -> bool:
    """Whether training rows stand before the questions of any trial."""
    count = at(raw, COUNT)
    space = at(raw, "sweep.space")
    knobs = space.values() if isinstance(space, dict) else ()
    searched = any(isinstance(knob, dict) and knob.get("path") == COUNT for knob in knobs)
    return searched or (isinstance(count, int) and count > 0)


def at(raw: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    for name in path.split("."):
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw
