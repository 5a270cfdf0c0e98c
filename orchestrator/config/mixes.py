"""A simplex among the knobs: written shortly, filled in from the data's sources, and checked."""

from __future__ import annotations

import dataclasses
from typing import Any

from jobs.config import Data
from orchestrator.config import simplex
from orchestrator.config.search_space import SOURCES, Knob
from orchestrator.config.settings import Config


def with_simplexes(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with the type and the path of each knob that names them by its sources alone:
    {simplex: [titles, terms]}.
    """
    sweep = raw.get("sweep")
    space = sweep.get("space") if isinstance(sweep, dict) else None
    if not isinstance(sweep, dict) or not isinstance(space, dict):
        return raw
    filled = {
        name: {"path": SOURCES, "type": "simplex"} | knob if is_simplex(knob) else knob
        for name, knob in space.items()
    }
    return raw | {"sweep": sweep | {"space": filled}}


def is_simplex(knob: Any) -> bool:
    """Whether a knob as it was written is one."""
    if not isinstance(knob, dict):
        return False
    return knob.get("type", "simplex" if knob.get("simplex") is not None else None) == "simplex"


def with_all_sources(config: Config) -> Config:
    """`config` with every source in the simplexes that name none."""
    space = {
        name: dataclasses.replace(knob, simplex=list(config.data.sources))
        if knob.type == "simplex" and knob.simplex is None and config.data.sources
        else knob
        for name, knob in config.sweep.space.items()
    }
    return dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, space=space))


def why_no_mix(data: Data, knob: Knob) -> str | None:
    """Why the sources of a simplex cannot be mixed."""
    names = knob.simplex or []
    present = ", ".join(data.sources)
    missing = [name for name in names if name not in data.sources]
    if missing:
        return f"data={data.name} has no source {missing[0]}; it has {present}"
    if len(names) < 2:
        count = f"one ({present})" if len(data.sources) == 1 else f"{present}; name two of them"
        more = "'+data.sources.NAME={path: FILE}'"
        return (
            f"a mix needs two sources or more, and data={data.name} has {count}; add rows: {more}"
        )
    return None


def epochs_of(config: Config) -> list[str]:
    """The settings that mix the sources by epochs, in the configuration or in the search."""
    given = [
        f"data.sources.{name}.epochs"
        for name, source in config.data.sources.items()
        if source.epochs is not None
    ]
    searched = [path for knob in config.sweep.space.values() for path in knob.paths]
    return given + [path for path in searched if path.endswith(".epochs")]


def mix_problems(config: Config, where: str, knob: Knob) -> list[tuple[str, str]]:
    """What is wrong with a simplex."""
    data = config.data
    reason = why_no_mix(data, knob)
    if reason is not None:
        return [(where, reason)]
    names = knob.simplex or []
    unknown = [name for name in knob.bounds or {} if name not in names]
    if unknown:
        return [
            (
                f"{where}.bounds.{unknown[0]}",
                f"is no source of this mix; it has {', '.join(names)}",
            )
        ]
    counted = epochs_of(config)
    if counted:
        text = f"searches the weights, and {counted[0]} mixes the sources by epochs"
        return [(where, f"{text}; leave one of them out")]
    reason = simplex.problem(knob.mixes)
    return [] if reason is None else [(f"{where}.bounds", reason)]


def without_weights(config: Config, path: str) -> str | None:
    """A weight where the sources are mixed by epochs."""
    counted = epochs_of(config)
    if not counted:
        return None
    _, _, name, _ = path.split(".")
    return (
        f"{counted[0]} mixes the sources by epochs; write data.sources.{name}.epochs, or leave "
        "that out"
    )


def without_cap(config: Config, path: str) -> str | None:
    """How often a source begins anew, where none does."""
    if config.data.exhausted == "cycle":
        return None
    return f"data.exhausted={config.data.exhausted} lets no source begin anew"
