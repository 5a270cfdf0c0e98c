"""When settings of the data change nothing. Pure."""

from __future__ import annotations

from orchestrator.config.settings import Config


def without_rivals(config: Config, path: str) -> str | None:
    """The weight of the only source."""
    return None if len(config.data.sources) > 1 else "it is the only source"


def without_sample(config: Config, path: str) -> str | None:
    """Which rows are taken of a source that gives all."""
    source = config.data.sources.get(path.split(".")[2])
    if source is None or source.rows is not None:
        return None
    return f"all rows are taken; {path.removesuffix('_seed')}=N takes so many"


def without_neighbours(config: Config, path: str) -> str | None:
    """The order of no neighbours, or of one, and the model that looks none up."""
    order = path.endswith("order")
    fewest = 1 if order else 0
    knobs = [k for k in config.sweep.space.values() if k.path == "data.neighbours.count"]
    values = [value for knob in knobs for value in (*(knob.values or ()), knob.high)]
    if any(isinstance(value, int | float) and value > fewest for value in values):
        return None
    count = config.data.neighbours.count
    if count > fewest and not knobs:
        return None
    return f"data.neighbours.count={count} leaves nothing to {'order' if order else 'look up'}"


def without_leakage_check(config: Config, path: str) -> str | None:
    """How much leakage is refused, where nobody looks for it."""
    if "leakage" not in config.data.checks.off:
        return None
    return "data.checks.off has leakage; leave one of them out"
