"""The tasks of a fleet: data.tasks={NAME: {...}}, each as the configuration of a sweep of its own.
Pure.

What stands in a task is put over what all have in common: settings of `data` by their own names,
those of other groups below the group's name, and `weight`, `metric` and `model` for short. A task
that brings its own rows takes nothing that belongs to the rows of the data choice.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.config import Data
from jobs.files import filesystem
from orchestrator.config.defaults import with_names
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.executor import why_plain
from orchestrator.config.settings import Config
from orchestrator.config.validation import Check, build, suggestion
from orchestrator.errors import ConfigError

PATH = "data.tasks"
ROWS = ("folder", "sources", "valid", "test")
"""Settings of data that say where rows come from."""
OF_ROWS = ("name", "description", "retained", "instruction", "columns", "label_names", "slices")
"""Settings of data that belong to the rows of a data choice."""
GROUPS = ("adapter", "optim", "train", "sweep", "final", "job", "registry", "tracking")
"""Groups of which a task may have settings of its own."""
SHORT = {"metric": "sweep.metric", "model": "tracking.model"}
SHARED = (
    *("adapter.kind", "adapter.targets", "adapter.layers", "train.dtype", "train.num_workers"),
    *("train.cpus_per_worker", "train.gpus_per_worker", "train.tokens_per_step"),
)
"""Settings that all trials of a pack have in common, whatever their task."""
OF_ALL = (
    *("sweep.max_concurrent", "sweep.prior", "job.kind", "job.author", "job.reason"),
    *("tracking.uri", "tracking.experiment", "tracking.system_metrics", "sweep.name"),
)
"""Settings of these groups that are the command's, and no task's."""
JOBS = ("train", "check", "setup", "serve")
"""What can be done with several tasks at once."""
MOST_TASKS = 64
"""Each is a thread of the command with an event log of its own."""
NAME = r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*"


@dataclass(frozen=True)
class FleetTask:
    """One task of a fleet."""

    number: int
    """From 1, in the order in which they are written."""
    name: str
    weight: float
    """Its share of the slots where several tasks want them."""
    config: Config
    raw: dict[str, Any]
    """Its settings as a plain dictionary."""
    share: float | None = None
    """Which part of sweep.minutes is the task's; None where it has minutes of its own."""


def is_fleet(raw: dict[str, Any]) -> bool:
    """Whether a composed dictionary has tasks."""
    data = raw.get("data")
    return isinstance(data, dict) and data.get("tasks") is not None


def without_tasks(raw: dict[str, Any]) -> dict[str, Any]:
    """A composed dictionary as that of one sweep."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return raw
    return raw | {"data": {name: value for name, value in data.items() if name != "tasks"}}


def build_fleet(
    raw: dict[str, Any],
    typed: Collection[str] = (),
    checks: tuple[Check, ...] = (),
    written: Collection[str] = (),
    of_file: Collection[str] = (),
) -> list[FleetTask]:
    """Read a composed dictionary with tasks; raises ConfigError with every problem in it. `of_file`
    are the settings that the file with the tasks gives: of the rows of all tasks, as what is typed;
    for the others see validation.build.
    """
    entries = raw["data"]["tasks"]
    faults = entry_problems(entries)
    if faults:
        raise ConfigError(faults)
    tasks = []
    by_task: dict[str, list[tuple[str, str]]] = {}
    given = {*typed, *of_file}
    for number, (name, entry) in enumerate(entries.items(), start=1):
        own = of_task(raw, name, entry, given)
        try:
            config = build(own, typed_of(name, entry, typed), checks, written)
        except ConfigError as error:
            by_task[name] = error.problems
            continue
        tasks.append(FleetTask(number, name, float(entry.get("weight", 1)), config, own))
    faults = located(by_task, entries)
    if len(tasks) == len(entries):
        faults += fleet_problems(raw, tasks)
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return with_shares(tasks, entries)


def entry_problems(entries: Any) -> list[tuple[str, str]]:
    """What is wrong with data.tasks before any task is read."""
    if not isinstance(entries, dict) or not entries:
        return [(PATH, "must be a group of tasks, {NAME: {folder: DIR}, ...}")]
    faults = []
    if len(entries) > MOST_TASKS:
        faults.append((PATH, f"has {len(entries)} tasks; a fleet has at most {MOST_TASKS}"))
    fields = [entry.name for entry in dataclasses.fields(Data)]
    allowed = [*fields, "weight", *SHORT, *GROUPS]
    for name, entry in entries.items():
        where = f"{PATH}.{name}"
        if not isinstance(name, str):
            faults.append(
                (
                    where,
                    f"this name is read as {name!r}, which is no text; in a file put quotes around "
                    "it, on the command line begin it with another letter",
                )
            )
            continue
        if not re.fullmatch(NAME, name):
            faults.append((where, "a task's name must be words of letters and digits joined by -"))
        if not isinstance(entry, dict):
            faults.append((where, f"must be a group of settings, got {entry!r}"))
            continue
        for setting, value in entry.items():
            if setting not in allowed:
                faults.append(
                    (f"{where}.{setting}", "no such setting" + suggestion(setting, allowed))
                )
            elif setting in GROUPS and not isinstance(value, dict):
                faults.append((f"{where}.{setting}", f"must be a group of settings, got {value!r}"))
        own = leaves(
            {group: entry[group] for group in GROUPS if isinstance(entry.get(group), dict)}
        )
        faults += [
            (f"{where}.{path}", f"is one for all tasks; write {path}={value}")
            for path, value in own.items()
            if path in OF_ALL
        ]
        faults += [
            (f"{where}.{short}", f"is {path}, which stands there too; leave one of them out")
            for short, path in SHORT.items()
            if short in entry and path in own
        ]
        faults += weight_problems(where, entry.get("weight", 1))
        faults += model_problems(where, entry.get("model"))
    return faults


def weight_problems(where: str, weight: Any) -> list[tuple[str, str]]:
    """Whether a weight is a number above 0."""
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if is_number and 0 < weight < float("inf"):
        return []
    return [(f"{where}.weight", f"must be a number above 0, got {weight!r}")]


def model_problems(where: str, model: Any) -> list[tuple[str, str]]:
    """Whether the name of a registered model is one."""
    if model is None or isinstance(model, str):
        return []
    return [
        (
            f"{where}.model",
            "must be the name under which the task's winner is registered; all tasks of a fleet "
            "share one base model, the command's model=...",
        )
    ]


def of_task(
    raw: dict[str, Any], name: str, entry: dict[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """The settings of one task, as those of a sweep by itself. `given` are the settings of the rows
    that are of all tasks.
    """
    own = copy.deepcopy(without_tasks(raw))
    data = own["data"]
    if any(entry.get(setting) is not None for setting in ROWS):
        brings_rows = data.get("folder") is not None or bool(data.get("sources"))
        for setting in (*ROWS, *(OF_ROWS if brings_rows else ())):
            if not is_typed(f"data.{setting}", given):
                data.pop(setting, None)
    entry = copy.deepcopy(entry)
    for setting in ("weight", *SHORT, *GROUPS):
        entry.pop(setting, None)
    own["data"] = merged(data, entry)
    if entry.get("name") is None:
        own["data"]["name"] = name
    for group, settings in settings_of(raw["data"]["tasks"][name]).items():
        own[group] = merged(own.get(group) or {}, settings)
    sweep = own.setdefault("sweep", {})
    sweep["name"] = f"{sweep.get('name', 'run')}-{name}"
    if own.get("job", {}).get("kind") == "serve":
        models = own.setdefault("serve", {}).get("models") or {}
        own["serve"]["models"] = models | {name: f"models:/{registered_name(own)}@champion"}
    return own


def settings_of(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a task sets in other groups than data."""
    groups = {group: copy.deepcopy(entry[group]) for group in GROUPS if group in entry}
    for short, path in SHORT.items():
        if entry.get(short) is not None:
            group, _, setting = path.partition(".")
            groups[group] = groups.get(group, {}) | {setting: entry[short]}
    return groups


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries with others put over them."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = merged(below, value)
        both[key] = value
    return both


def registered_name(raw: dict[str, Any]) -> str:
    """Under which name a task's winner is registered; see settings.Config.registered_name."""
    model = (raw.get("tracking") or {}).get("model")
    raw = with_names(raw)
    return model or f"{raw['data']['name']}-{raw['model']['name']}"


def is_typed(path: str, typed: Collection[str]) -> bool:
    """Whether a setting was typed, or one below it."""
    return any(name == path or name.startswith(f"{path}.") for name in typed)


def typed_of(name: str, entry: dict[str, Any], typed: Collection[str]) -> list[str]:
    """The settings that were chosen for a task: those typed for all, and all that stand in it."""
    common = [path for path in typed if path != PATH and not path.startswith(f"{PATH}.")]
    data = {key: value for key, value in entry.items() if key not in ("weight", *SHORT, *GROUPS)}
    return [*common, *leaves({"data": data} | settings_of(entry))]


def located(
    by_task: Mapping[str, list[tuple[str, str]]], entries: Collection[str]
) -> list[tuple[str, str]]:
    """Problems of tasks under the names that their settings have in the fleet: what all have alike
    is said once, of the setting that they have in common.
    """
    faults = []
    for name, problems in by_task.items():
        for path, text in problems:
            everyones = all((path, text) in by_task.get(other, []) for other in entries)
            if everyones and len(entries) > 1:
                faults.append((path, text))
                continue
            short = next((short for short, long in SHORT.items() if long == path), None)
            inner = short or path.removeprefix("data.")
            faults.append((f"{PATH}.{name}.{inner}", text))
    return faults


def fleet_problems(raw: dict[str, Any], tasks: list[FleetTask]) -> list[tuple[str, str]]:
    """Why the tasks cannot be one fleet."""
    first = tasks[0].config
    faults = []
    if first.job.kind not in JOBS:
        faults.append(
            (PATH, f"job={first.job.kind} is about one model or one set of rows; leave it out")
        )
    if first.cluster.kind != "local":
        faults.append(
            (
                "cluster.kind",
                f"{first.cluster.kind}: a fleet trains on the machine of its command; leave it "
                "out, or send each task as a sweep of its own",
            )
        )
    if filesystem.is_uri(first.storage):
        faults.append(("storage", f"a fleet keeps what it learns in a folder, got {first.storage}"))
    if first.executor == "plain":
        faults.append(
            ("executor", "plain trains each trial by itself; a fleet trains in packs: leave it out")
        )
    if first.job.kind == "train":
        faults += pack_problems(tasks) + one_sweep_problems(tasks)
    return faults + name_problems(raw, tasks)


def one_sweep_problems(tasks: list[FleetTask]) -> list[tuple[str, str]]:
    """Settings that a sweep by itself can have, and a fleet's task cannot."""
    faults = []
    config = tasks[0].config
    limits = [name for name, value in dataclasses.asdict(config.budget).items() if value]
    if limits:
        faults.append(
            (
                f"budget.{limits[0]}",
                "counts what one sweep spends; a fleet's time is set with sweep.minutes, which its "
                "tasks share",
            )
        )
    if config.mix.method == "merge":
        faults.append(
            ("mix.method", "merge trains experts for one sweep; leave it out, or sweep each task")
        )
    if config.pareto.bases:
        faults.append(
            (
                "pareto.bases",
                f"{', '.join(config.pareto.bases)}: a fleet has one base, model=NAME; take +sweep="
                "lora, or compare the bases for each task by itself",
            )
        )
    return faults


def pack_problems(tasks: list[FleetTask]) -> list[tuple[str, str]]:
    """Why trials of these tasks cannot share a pack."""
    faults = []
    expected = {path: value_of(tasks[0].config, path) for path in SHARED}
    for task in tasks:
        reason = why_plain(task.config)
        if reason is not None:
            faults.append((f"{PATH}.{task.name}", f"{reason}; a fleet trains in packs"))
        faults += [
            (
                f"{PATH}.{task.name}.{path}",
                f"{value_of(task.config, path)} is not the {expected[path]} of "
                f"{tasks[0].name}; the trials of a pack have it in common",
            )
            for path in SHARED
            if value_of(task.config, path) != expected[path]
        ]
    return faults


def value_of(config: Config, path: str) -> Any:
    """The value of a setting."""
    group, _, name = path.partition(".")
    return getattr(getattr(config, group), name)


def name_problems(raw: dict[str, Any], tasks: list[FleetTask]) -> list[tuple[str, str]]:
    """Models of two tasks under one name: the one would replace the other."""
    if (raw.get("tracking") or {}).get("model") is not None:
        text = "is one name for the models of all tasks; write data.tasks.NAME.model=..."
        return [("tracking.model", text)]
    by_name: dict[str, str] = {}
    faults = []
    for task in tasks:
        name = task.config.registered_name
        if name in by_name:
            faults.append(
                (
                    f"{PATH}.{task.name}.model",
                    f"{name} is the model of {by_name[name]} already; each task registers its own",
                )
            )
        by_name.setdefault(name, task.name)
    return faults


def with_shares(tasks: list[FleetTask], entries: dict[str, Any]) -> list[FleetTask]:
    """The tasks, each with its share of the time that the whole command has. One that says how
    long it takes by itself keeps that.
    """
    total = sum(task.weight for task in tasks)
    return [
        task
        if "minutes" in (entries[task.name].get("sweep") or {})
        else dataclasses.replace(task, share=task.weight / total)
        for task in tasks
    ]
