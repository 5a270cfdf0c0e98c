"""What a configuration leaves open, filled in: names, absolute paths, the folder's own source, and
knobs that have nothing to turn.

Leaves finding mistakes to validation.py, which calls these one after the other.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jobs.config import Source
from jobs.data import locations
from jobs.data.paths import with_embedding, with_paths
from jobs.data.splits import splits_of
from jobs.evaluation import registry
from orchestrator.config import idle_settings
from orchestrator.config.dotted_paths import lookup
from orchestrator.config.left_open import is_own_knob
from orchestrator.config.mixes import why_no_mix
from orchestrator.config.search_space import Knob
from orchestrator.config.settings import Config


def with_names(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with the data and the base model called by their folders' names where they have none:
    results on different data, and models of different bases, must not come under one name.
    """
    named = dict(raw)
    for group, folder, otherwise in (("data", "folder", "files"), ("model", "path", "local")):
        settings = raw.get(group)
        if isinstance(settings, dict) and settings.get("name", "") is None:
            path = settings.get(folder)
            last = otherwise
            if isinstance(path, str) and path:
                last = (
                    locations.name_of(path)
                    if group == "data"
                    else os.path.basename(os.path.abspath(os.path.expanduser(path)))
                )
            named[group] = settings | {
                "name": re.sub(r"[^\w.+-]+", "-", last).strip("-.+") or otherwise
            }
    return named


SWITCH = ("true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "1", "0")
"""Words that are read as true or false."""


def with_retry(raw: dict[str, Any], problems: list[tuple[str, str]]) -> dict[str, Any]:
    """`raw` with retry=failed as what it is, a switch; another word goes to `problems`."""
    given = raw.get("retry")
    if given == "failed":
        return raw | {"retry": True}
    if isinstance(given, str) and given.lower() not in SWITCH:
        problems.append(("retry", f"must be failed, true or false, got {given!r}"))
        return {name: value for name, value in raw.items() if name != "retry"}
    return raw


def with_metric(raw: dict[str, Any], problems: list[tuple[str, str]]) -> dict[str, Any]:
    """`raw` with sweep.metric under the name by which trials report it, and with the cost matrix
    read where sweep.costs names a file of it; what is wrong with that goes to `problems`.
    """
    sweep = raw.get("sweep")
    if not isinstance(sweep, dict):
        return raw
    changed: dict[str, Any] = {}
    if isinstance(sweep.get("metric"), str):
        changed["metric"] = registry.with_split(sweep["metric"].strip())
    if isinstance(sweep.get("costs"), str):
        changed["costs"] = read_costs(sweep["costs"], problems)
    return raw | {"sweep": sweep | changed}


def read_costs(file: str, problems: list[tuple[str, str]]) -> dict[str, Any]:
    """A cost matrix from a YAML file; empty, with a problem more, for a file that holds none.
    Labels are texts, also those that YAML takes for something else, such as yes, no and 01.
    """
    import yaml

    path = os.path.abspath(os.path.expanduser(file))
    shape = "it must hold a right label on each line, with answered labels and their costs in it"
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        costs = yaml.load(text, yaml.BaseLoader)  # noqa: S506  # it makes texts alone
        twice = repeated_keys(yaml.compose(text, yaml.BaseLoader))
    except OSError as error:
        problems.append(("sweep.costs", f"{file} cannot be read: {error.strerror}"))
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        problems.append(("sweep.costs", f"{file} is no YAML: {reason}; {shape}"))
        return {}
    if (
        not isinstance(costs, dict)
        or not costs
        or not all(isinstance(row, dict) for row in costs.values())
    ):
        problems.append(("sweep.costs", f"{file} is no cost matrix; {shape}"))
        return {}
    if twice:
        problems.append(("sweep.costs", f"{file} names {', '.join(twice)} twice"))
    return {
        str(right): {str(said): as_number(cost) for said, cost in row.items()}
        for right, row in costs.items()
    }


def as_number(text: Any) -> Any:
    """A cost as it stands in a file; what is no number stays what it is."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def repeated_keys(node: Any) -> list[str]:
    """Keys that a mapping of YAML, or one in it, has twice: the later one would silently win."""
    repeated: list[str] = []
    for key, value in node.value if hasattr(node, "flow_style") and node.id == "mapping" else []:
        repeated += [
            other.value for other, _ in node.value if other is not key and other.value == key.value
        ]
        repeated += repeated_keys(value)
    return list(dict.fromkeys(map(str, repeated)))


def with_absolute_paths(config: Config) -> Config:
    """`config` with the data's and the model's paths made absolute: workers run in another
    folder.
    """

    def absolute(path: str) -> str:
        if locations.is_remote(path):
            return path
        return os.path.abspath(os.path.expanduser(path.removeprefix("file://")))

    path = config.model.path
    model = dataclasses.replace(config.model, path=None if path is None else absolute(path))
    data = with_embedding(with_paths(config.data, absolute), absolute)
    return dataclasses.replace(config, data=data, model=model)


def with_folder_source(config: Config) -> Config:
    """`config` with the training file of data.folder among the sources: its weight is set, searched
    and recorded like any other's.
    """
    data = config.data
    if (
        data.folder is None
        or "train" in data.sources
        or (data.sources and not has_training_file(data.folder))
    ):
        return config
    return dataclasses.replace(
        config, data=dataclasses.replace(data, sources={"train": Source(), **data.sources})
    )


def has_training_file(folder: str) -> bool:
    """Whether a folder holds rows to train on in a form that is read. Problems with them are told
    when they are read.
    """
    try:
        return locations.is_remote(folder) or "train" in splits_of(Path(folder))
    except OSError:
        return Path(folder).is_file() or locations.is_pattern(folder)


def why_absent(config: Config, raw: dict[str, Any], knob: Knob) -> str | None:
    """Why a knob has nothing to turn; None where its setting is there."""
    if knob.type == "simplex":
        return why_no_mix(config.data, knob)
    return None if lookup(raw, knob.path) else f"the configuration has no setting {knob.path}"


def without_absent(config: Config, typed: Collection[str] = ()) -> Config:
    """`config` without the optional knobs whose setting, or whose leader's setting, does not exist
    or changes nothing; `skipped` says which and why. Of a knob that comes with the project for
    other data, such as the mix of icd10's sources, nothing is said.
    """
    raw = dataclasses.asdict(config)
    space = config.sweep.space
    missing = {
        knob.path: why
        for knob in space.values()
        if (why := why_absent(config, raw, knob)) is not None
    }
    reasons = dict(missing)
    reasons |= {
        knob.path: why
        for knob in space.values()
        if knob.path not in reasons and (why := idle_settings.idle_knob(config, knob.path))
    }
    skipped = {}
    of_other_data = set()
    for name, knob in space.items():
        absent = next((path for path in (knob.path, knob.to) if path in reasons), None)
        if knob.optional and absent is not None:
            skipped[name] = reasons[absent]
            if absent in missing and is_own_knob(name, knob, typed):
                of_other_data.add(name)
    space_here = {name: knob for name, knob in space.items() if name not in skipped}
    config = dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, space=space_here))
    skipped = {name: why for name, why in skipped.items() if name not in of_other_data}
    object.__setattr__(
        config, "skipped", skipped
    )  # no argument, so that nobody can give it on the command line
    return config
