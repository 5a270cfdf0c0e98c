"""A changed copy of a trial: which settings it has, and whether the sweep may take it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from jobs.config import Trial
from jobs.data.shares import weights_of
from orchestrator.config.dotted_paths import leaves, lookup
from orchestrator.config.executor import SHARED
from orchestrator.config.search_space import Point, Value, link
from orchestrator.config.settings import Config
from orchestrator.config.validation import searchable, suggestion, trial_of
from orchestrator.errors import ConfigError, InputError


def read_settings(config: Config, typed: list[str]) -> Point:
    """Settings as they were typed, KNOB=VALUE, by dotted path; a knob of the search space may be
    named by its name. Raises ConfigError with every problem.
    """
    raw = dataclasses.asdict(config)
    settings: Point = {}
    problems: list[tuple[str, str]] = []
    for text in typed:
        name, equals, value = text.partition("=")
        knob = config.sweep.space.get(name)
        path = name if knob is None else knob.path
        if not equals or not value.strip():
            problems.append((name, f"write it as KNOB=VALUE, got {text!r}"))
        elif not lookup(raw, path):
            near = suggestion(path, [other for other in leaves(raw) if searchable(other)])
            problems.append((path, f"no such setting{near}"))
        elif not searchable(path):
            allowed = ", ".join(path for path in leaves(raw) if searchable(path))
            problems.append((path, f"cannot be changed in a copy; what can: {allowed}"))
        elif path in settings:
            problems.append((path, "is given twice"))
        else:
            settings[path] = parsed(value)
    if problems:
        raise ConfigError(problems)
    return settings


def parsed(text: str) -> Value:
    """A typed value: a number, true or false, or a text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | str) else text


def copy_point(
    config: Config, points: Mapping[int, Point], index: int, settings: Point, packed: bool
) -> Point:
    """The point of a copy of trial `index` with other `settings`; what follows a changed knob
    changes with it. `points` are those of all trials so far. Raises InputError for a trial that is
    not there, a value that its setting refuses, and a copy that the sweep has already.
    """
    if not points.get(index):
        started = ", ".join(str(trial) for trial in sorted(points) if points[trial]) or "none"
        raise InputError(f"trial {index} has no settings to copy; trials with some: {started}")
    point = points[index] | settings
    space = config.sweep.space
    free = [path for knob in space.values() if knob.type != "linked" for path in knob.paths]
    if space and all(path in point for path in free):
        point = point | relinked(config, point) | settings
    switches = [path for path, value in settings.items() if isinstance(value, bool)]
    if switches:
        text = f"must not be {str(settings[switches[0]]).lower()}: it is no switch"
        raise ConfigError([(switches[0], text)])
    trial = trial_of(config, index, point)
    sources = trial.data.sources
    if not any(weights_of(sources, dict.fromkeys(sources, 1)).values()):
        raise ConfigError([("data.sources", "every weight is 0; at least one must be above 0")])
    shared = [path for path in settings if path in SHARED]
    if packed and shared:
        raise InputError(
            f"{shared[0]} is shared by all trials of this sweep's packs, so a copy cannot have "
            "another; a sweep with executor=plain can"
        )
    twin = next((n for n, other in points.items() if other and alike(config, trial, other)), None)
    if twin is not None:
        raise InputError(f"trial {twin} has exactly these settings already; change a value")
    return point


def relinked(config: Config, point: Point) -> Point:
    """The settings of the search space with those that follow others brought up to date."""
    try:
        return link(config.sweep.space, point)
    except (ValueError, KeyError):  # a leader's value that the followers' list does not know
        return {}


def alike(config: Config, trial: Trial, point: Point) -> bool:
    """Whether a point gives exactly this trial but for its number."""
    return trial_of(config, trial.index, point) == trial


def described(settings: dict[str, Any]) -> str:
    """Settings in a sentence."""
    return ", ".join(f"{path}={value}" for path, value in settings.items())
