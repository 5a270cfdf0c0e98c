"""How a composed dictionary becomes one checked, frozen `Config`, and a point of the search space
one checked `Trial`.

Every problem is found in one go and named by its dotted path. Knows nothing of Hydra: it receives a
plain dictionary.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Collection
from typing import Any

from jobs.config import Source, Trial
from jobs.data.shares import weights_of
from jobs.evaluation import registry
from jobs.source_rows import DECIDES_ROWS
from orchestrator.config import idle_settings
from orchestrator.config.alias_settings import alias_problems
from orchestrator.config.defaults import (
    with_absolute_paths,
    with_folder_source,
    with_metric,
    with_names,
    with_retry,
    without_absent,
)
from orchestrator.config.dotted_paths import assign, dotted, leaves, lookup, without
from orchestrator.config.executor import why_plain
from orchestrator.config.knob_conflicts import problems
from orchestrator.config.left_open import open_settings
from orchestrator.config.mixes import mix_problems, with_all_sources, with_simplexes
from orchestrator.config.nested_sections import names_beside
from orchestrator.config.search_space import Bounds, Knob, Point, extremes
from orchestrator.config.settings import SECTIONS, Config
from orchestrator.errors import ConfigError

SEARCHABLE = (
    *("adapter.", "optim.", "train.batch_size", "data.sources.", "data.instruction"),
    *("data.neighbours.count", "seed"),
)
"""Beginnings of the dotted paths that a sweep may search: what decides a trial's result and leaves
its base model as it is.
"""
Check = Callable[[Config], list[tuple[str, str]]]
"""A rule on settings: pairs of dotted path and problem."""


def check(raw: dict[str, Any], checks: tuple[Check, ...] = ()) -> list[tuple[str, str]]:
    """Every problem of a composed dictionary."""
    try:
        build(raw, checks=checks)
    except ConfigError as error:
        return error.problems
    return []


def build(
    raw: dict[str, Any],
    typed: Collection[str] = (),
    checks: tuple[Check, ...] = (),
    written: Collection[str] = (),
) -> Config:
    """Read a composed dictionary; raises ConfigError with every problem in it. `typed` names the
    settings of the command line: of those, and of others than the defaults, it is said when they
    change nothing. `checks` are further rules, of the rooms that use the settings. `written` names
    those of the chosen experiment or fleet, which the plan leaves as they are.
    """
    faults: list[tuple[str, str]] = []
    raw = with_simplexes(with_metric(with_names(with_retry(raw, faults)), faults))
    config = collect(Config, raw, faults)
    if isinstance(config, Config):
        faults += truth_values(raw, config)
        config = with_all_sources(with_folder_source(with_absolute_paths(config)))
        config = without_absent(config, typed)
        faults += problems(config.sweep.space) + space_problems(config)
        faulty_paths = {path for path, _ in faults}
        faults += [
            (path, text) for path, text in job_problems(config, checks) if path not in faulty_paths
        ]
        faulty_paths = {path for path, _ in faults}
        object.__setattr__(config, "left_open", open_settings(config, typed, written))
        refused, named = idle_settings.find_idle(config, raw, typed)
        faults += [(path, text) for path, text in refused if path not in faulty_paths]
        object.__setattr__(
            config, "unused", named
        )  # no argument, so that nobody can give it on the command line
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return config


def trial_of(config: Config, index: int, point: Point) -> Trial:
    """Trial `index` of a sweep: the settings with `point` put over them. Raises ConfigError when a
    value is out of range.
    """
    raw = dataclasses.asdict(config)
    for path, value in point.items():
        assign(raw, path, value)
    keys = ("seed", "model", "data", "adapter", "optim", "train")
    return parse(Trial, {"index": index, **{key: raw[key] for key in keys}})


def parse(kind: type, raw: dict[str, Any]) -> Any:
    """`raw` as an instance of `kind`; raises ConfigError."""
    faults: list[tuple[str, str]] = []
    instance = collect(kind, raw, faults)
    if faults:
        raise ConfigError(faults)
    return instance


def collect(kind: type, raw: dict[str, Any], faults: list[tuple[str, str]]) -> Any:
    """Read `raw`, append its problems to `faults`; what is wrong is taken out and the rest read
    again: no mistake hides another.
    """
    from pydantic import ValidationError

    while True:
        try:
            return adapter_of(kind).validate_python(raw)
        except ValidationError as error:
            items = [item for item in error.errors() if not (item["type"] == "missing" and faults)]
            new = [problem for item in items for problem in describe(kind, item)]
            # What was taken out for another mistake is not also missing.
            faults += [
                (path, text)
                for path, text in new
                if not any(f"{faulty_path}.".startswith(f"{path}.") for faulty_path, _ in faults)
            ]
            wrong = [
                item["loc"][:-1] if item["type"] == "missing" else item["loc"]
                for item in items
                if item["type"] != "value_error"
            ]
            remaining = without(
                raw, [loc for loc in wrong if loc] + [tuple(path.split(".")) for path, _ in new]
            )
            if remaining == raw:
                return None
            raw = remaining


@functools.cache
def adapter_of(kind: type) -> Any:
    """The pydantic reader of a settings class."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def describe(kind: type, item: Any) -> list[tuple[str, str]]:
    """One pydantic error as (dotted path, message) pairs in our words."""
    path = dotted(item["loc"])
    value = item.get("input")
    shown = "null" if value is None else repr(value)
    if item["type"] == "unexpected_keyword_argument" or item["type"] == "extra_forbidden":
        return [(path, "no such setting" + suggestion(path, names(kind, path)))]
    if item["type"] == "value_error":
        return [split(path, line) for line in str(item["ctx"]["error"]).split("\n")]
    if item["type"] == "literal_error":
        allowed = item["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return [(path, f'"{value}" is not one of {allowed}')]
    if item["type"] == "missing":
        return [(path, "must be set")]
    if "values" in item["loc"][:-1]:
        return [
            (
                dotted(item["loc"][: item["loc"].index("values") + 2]),
                f"must be a number or a text, got {shown}",
            )
        ]
    wanted = next((words for start, words in KINDS.items() if item["type"].startswith(start)), None)
    return [(path, f"{wanted or item['msg']}, got {shown}")]


KINDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "bool": "must be true or false",
    "string": "must be a text",
    "dict": "must be a group of settings",
    "dataclass": "must be a group of settings",
    "list": "must be a list",
}
"""What a field of each type takes, by the beginning of pydantic's name for the error."""


def split(path: str, line: str) -> tuple[str, str]:
    """Cut "adapter.rank must be ..." into its path and the rest; a wildcard in it is filled from
    the place where it was found.
    """
    first, _, message = line.partition(" ")
    if "*" in first:
        return (f"{path}.{first.rsplit('.', 1)[1]}", message)
    root = path.split(".")[0] or first
    return (first, message) if first.split(".")[0] == root or not path else (path, line)


def names(kind: type, path: str) -> list[str]:
    """Every dotted path of a leaf or group of `kind`, for suggestions."""
    listed: list[str] = []
    for entry in (entry for entry in dataclasses.fields(kind) if entry.init):
        nested = SECTIONS.get(entry.name) if kind is Config else None
        listed.append(entry.name)
        if nested:
            listed += [f"{entry.name}.{inner.name}" for inner in dataclasses.fields(nested)]
    if kind is Config and (beside := names_beside(path)):
        return beside
    if kind is Config and re.fullmatch(r"sweep\.space\.[^.]+\.bounds\.[^.]+\.[^.]+", path):
        start = path.rpartition(".")[0]
        return [f"{start}.{inner.name}" for inner in dataclasses.fields(Bounds)]
    inside = re.fullmatch(r"(data\.sources|sweep\.space)\.([^.]+)\.[^.]+", path)
    if kind is Config and inside:
        entries = dataclasses.fields(Source if inside[1] == "data.sources" else Knob)
        return [f"{inside[1]}.{inside[2]}.{inner.name}" for inner in entries]
    return listed


def suggestion(name: str, candidates: list[str]) -> str:
    """ "; did you mean X?" for the nearest candidate, or nothing."""
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    last = name.rsplit(".", 1)[-1]
    near = near or [c for c in candidates if c.rsplit(".", 1)[-1] == last][:1]
    near = (
        near
        or [
            c
            for c in candidates
            if difflib.get_close_matches(last, [c.rsplit(".", 1)[-1]], cutoff=0.75)
        ][:1]
    )
    return f"; did you mean {near[0]}?" if near else ""


def truth_values(raw: dict[str, Any], config: Config) -> list[tuple[str, str]]:
    """Settings that were given as true or false and read as a number."""
    read = leaves(dataclasses.asdict(config))
    return [
        (path, f"must be a number, got {str(value).lower()}")
        for path, value in leaves(raw).items()
        if isinstance(value, bool)
        and isinstance(read.get(path), int | float)
        and not isinstance(read[path], bool)
    ]


def space_problems(config: Config) -> list[tuple[str, str]]:
    """Knobs over settings that do not exist or cannot be searched, values that no trial could hold,
    and too few or too many trials.
    """
    faults: list[tuple[str, str]] = []
    raw = dataclasses.asdict(config)
    searchable_paths = [path for path in leaves(raw) if searchable(path)]
    for name, knob in config.sweep.space.items():
        where = f"sweep.space.{name}"
        if knob.type == "simplex":
            faults += mix_problems(config, where, knob)
        elif not lookup(raw, knob.path):
            faults.append(
                (
                    f"{where}.path",
                    f'"{knob.path}" is no setting{suggestion(knob.path, searchable_paths)}',
                )
            )
        elif not searchable(knob.path):
            faults.append(
                (
                    f"{where}.path",
                    f"{knob.path} cannot be searched; what can: {', '.join(searchable_paths)}",
                )
            )
        else:
            faults += value_problems(config, where, knob)
        if config.sweep.search == "grid" and knob.type not in ("choice", "grid", "linked"):
            faults.append(
                (f"{where}.type", f"sweep.search=grid needs a list of values, not {knob.type}")
            )
    return faults


def searchable(path: str) -> bool:
    """Whether a sweep may search a setting. A source's file decides which rows there are: that is
    the sweep's, not a trial's.
    """
    return path.startswith(SEARCHABLE) and not re.match(DECIDES_ROWS, path)


def value_problems(config: Config, where: str, knob: Knob) -> list[tuple[str, str]]:
    """Values of one knob that its setting refuses."""
    faults = []
    for value in extremes(knob, config.sweep.space):
        if isinstance(value, bool):
            faults.append(
                (
                    where,
                    f"{knob.path} must not be {str(value).lower()}: no setting that can be "
                    "searched is a switch",
                )
            )
            continue
        try:
            trial_of(config, 1, {knob.path: value})
        except ConfigError as error:
            faults += [
                (where, f"{path} {text}" if path not in text else text)
                for path, text in error.problems
            ]
    return faults


VERSION = r"models:/[^/:@'\"]+(@[\w.-]+|/\d+)|runs:/\w+/.+"
"""Addresses of a registered model's version, or of what a run has kept."""


def job_problems(config: Config, checks: tuple[Check, ...] = ()) -> list[tuple[str, str]]:
    """Settings that the chosen job needs and that are not there, and the other way round."""
    faults = []
    reason = why_plain(config) if config.executor == "pack" else None
    if reason:
        faults.append(
            (
                "executor",
                f"pack is not possible: {reason}; executor=plain trains each trial by itself",
            )
        )
    if config.adapter.kind == "full" and config.adapter.dropout > 0:
        faults.append(
            (
                "adapter.dropout",
                f"{config.adapter.dropout:g} drops nothing with adapter.kind=full, which has no "
                "adapter; leave it out",
            )
        )
    if config.job.kind == "predict":
        needed = ("model_uri",) if config.messages is not None else ("model_uri", "prompt")
        faults += [
            (name, "must be set for job=predict")
            for name in needed
            if not (getattr(config, name) or "").strip()
        ]
        if config.messages is not None and config.prompt is not None:
            faults.append(
                (
                    "messages",
                    "is the whole conversation, and prompt a part of it; leave one of them out",
                )
            )
        if (
            config.model_uri
            and re.match(r"\w+:", config.model_uri)
            and not re.fullmatch(VERSION, config.model_uri)
        ):
            faults.append(
                (
                    "model_uri",
                    f"{config.model_uri} is neither models:/NAME@champion, models:/NAME/3, "
                    "runs:/ID/PATH nor a folder",
                )
            )
    if config.job.kind in ("promote", "rollback"):
        faults += alias_problems(config)
    no_metric = registry.problem(config.sweep.metric)
    if no_metric is not None:
        faults.append(("sweep.metric", no_metric))
    elif registry.name_of(config.sweep.metric) == registry.COST and not config.sweep.costs:
        faults.append(
            (
                "sweep.costs",
                f"must be set for sweep.metric={config.sweep.metric}: right label -> answered "
                "label -> cost, as a group of settings or the name of a YAML file",
            )
        )
    for check_settings in checks:
        named = dict(faults)
        faults += [(path, text) for path, text in check_settings(config) if path not in named]
    sources = config.data.sources
    if not any(weights_of(sources, dict.fromkeys(sources, 1)).values()):
        faults.append(
            ("data.sources", "every weight is 0; at least one source needs a weight above 0")
        )
    return faults
