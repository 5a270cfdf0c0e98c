"""Which settings nobody has chosen, so that the plan chooses them by measurement.

A value that a file under conf/train or conf/sweep gives is a default, and so is none; what was
typed, and what an experiment, a fleet or another file says, was chosen.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.dotted_paths import leaves
from orchestrator.config.search_space import Knob
from orchestrator.config.yaml_text import parse
from orchestrator.project import ROOT

if TYPE_CHECKING:
    from orchestrator.config.settings import Config

MINUTES, TRIALS, STEPS = "sweep.minutes", "sweep.num_trials", "train.steps"
EVAL_EVERY, DTYPE = "train.eval_every", "train.dtype"
RATES, RANKS = "sweep.space.lr", "sweep.space.rank"
ENDS = {"low": f"{RATES}.low", "high": f"{RATES}.high"}
"""Ends of the range of learning rates, of which one alone may be left open."""
FILES = {"train": ROOT / "conf" / "train" / "default.yaml"}
SWEEPS = ROOT / "conf" / "sweep"


def open_settings(
    config: Config, typed: Collection[str], written: Collection[str] = ()
) -> tuple[str, ...]:
    """The names of the settings that are left open: sizes only where there is a time to fill.
    `written` are those of an experiment or a fleet. They are chosen as the typed ones are, but for
    the usual minutes, which stand in most: where those are too short the smallest sweep runs.
    """
    found = []
    usual_minutes = is_default(MINUTES, config.sweep.minutes, typed)
    typed = [*typed, *written]
    if config.train.dtype == "auto":
        found.append(DTYPE)
    if config.job.kind != "train":
        return tuple(found)
    ends = open_ends(config, typed)
    found += [RATES] if len(ends) == len(ENDS) else [ENDS[end] for end in ends]
    if are_usual_ranks(config, typed):
        found.append(RANKS)
    if config.sweep.minutes is None:
        return tuple(found)
    if usual_minutes:
        found.append(MINUTES)
    only_grid = all(knob.type in ("grid", "linked") for knob in config.sweep.space.values())
    searched = not only_grid and config.sweep.search != "grid"
    if searched and is_default(TRIALS, config.sweep.num_trials, typed):
        found.append(TRIALS)
    if is_default(STEPS, config.train.steps, typed):
        found.append(STEPS)
        if is_default(EVAL_EVERY, config.train.eval_every, typed):
            found.append(EVAL_EVERY)
    return tuple(found)


def open_ends(config: Config, typed: Collection[str]) -> list[str]:
    """The ends of the range of a LoRA's learning rate that are as they stand in the files."""
    knob = config.sweep.space.get("lr")
    if knob is None or (knob.path, knob.type) != ("optim.lr", "loguniform"):
        return []
    if config.adapter.kind != "lora":
        return []
    return [end for end, path in ENDS.items() if is_default(path, getattr(knob, end), typed)]


def are_usual_ranks(config: Config, typed: Collection[str]) -> bool:
    """Whether the rank is searched among the values that stand in the files."""
    knob = config.sweep.space.get("rank")
    if knob is None or (knob.path, knob.type) != ("adapter.rank", "choice"):
        return False
    return is_default(f"{RANKS}.values", knob.values, typed)


def is_own_knob(name: str, knob: Knob, typed: Collection[str]) -> bool:
    """Whether a knob of a search space is one that comes with the project, as it stands there."""
    path = f"sweep.space.{name}"
    return bool(default_values(f"{path}.path")) and all(
        is_default(f"{path}.{setting}", value, typed)
        for setting, value in dataclasses.asdict(knob).items()
        if value != Knob.__dataclass_fields__[setting].default
    )


def is_default(path: str, value: Any, typed: Collection[str]) -> bool:
    """Whether a setting has the value that it has where nobody chooses one."""
    if any(path == name or path.startswith(f"{name}.") for name in typed):
        return False
    return value is None or value in default_values(path)


@functools.cache
def default_values(path: str) -> list[Any]:
    """The values that the project's own groups of sweeps and of training give a setting."""
    values = []
    for file, prefix in own_files():
        given = leaves(read(file), prefix)
        if path in given:
            values.append(given[path])
    return values


def own_files() -> list[tuple[Path, str]]:
    """The files of those groups, each with the dotted beginning of what it sets."""
    return [(FILES["train"], "train."), *((file, "") for file in sorted(SWEEPS.glob("*.yaml")))]


@functools.cache
def read(file: Path) -> dict[str, Any]:
    """The content of one of the project's own configuration files."""
    return parse(file.read_text(encoding="utf-8"))
