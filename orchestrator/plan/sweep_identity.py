"""What makes a sweep the same one: the hash by which a command finds its own work again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from jobs.base_models import fetch
from jobs.config import BaseModel
from jobs.data.tokenization import RENDERING
from orchestrator.config import idle_settings
from orchestrator.config.left_open import ENDS, RANKS, RATES, are_usual_ranks, open_ends
from orchestrator.config.settings import Config
from orchestrator.plan import sizing
from orchestrator.plan.advice import shaped_by_steps
from orchestrator.plan.merge import decisive_merge
from orchestrator.plan.metric import decisive_settings
from orchestrator.plan.mixes import decisive_mix
from orchestrator.plan.neighbours import decisive_neighbours
from orchestrator.plan.shipping import SizeConstraint

NEUTRAL = ("cpus_per_worker", "gpus_per_worker", "max_failures", "tokens_per_step")
"""Settings of `train` that change how fast a trial runs, not what it computes."""

SEARCH = "first at the centre"
"""How the points of a sweep follow from its space: another way makes other sweeps."""

SCORED_BY = ("metric_rows", "costs")
"""Settings of `sweep` that decide something for some metrics only; see plan/metric.py."""


def identity(
    config: Config,
    fingerprint: str,
    base: BaseModel | None,
    constraint: SizeConstraint | None = None,
) -> str:
    """Hash of everything that decides the sweep's result but how far it goes, so that a wider or
    longer one continues it.
    """
    raw = dataclasses.asdict(config)
    groups = {
        group: idle_settings.without_idle(config, group, raw[group])
        for group in ("adapter", "optim", "train", "sweep", "data")
    }
    train = {key: value for key, value in groups["train"].items() if key not in NEUTRAL}
    chosen_here = [path.removeprefix("train.") for path in config.left_open]
    if "dtype" in chosen_here:
        train["dtype"] = "auto"
    if not shaped_by_steps(config):
        del train["steps"]
    elif "steps" in chosen_here:
        train["steps"] = sizing.name_of(config)  # what they follow from, whatever was measured
    if "eval_every" in chosen_here:
        del train["eval_every"]
    sweep = {
        key: value
        for key, value in groups["sweep"].items()
        if key
        not in ("name", "num_trials", "minutes", "max_concurrent", "give_up_after", *SCORED_BY)
    }
    if sweep.get("prior") is None:
        sweep.pop("prior", None)
    sweep["mode"] = config.sweep.maximise
    if "space" in sweep:
        sweep["space"] = {name: decisive_knob(knob) for name, knob in sweep["space"].items()}
    sweep |= decisive_settings(config)
    model = (
        base.revision
        if base
        else (fetch.known_revision(config.model) or config.model.id or config.model.path)
    )
    instruction = groups["data"].get("instruction")
    decisive = [
        model,
        fingerprint,
        decisive_weights(config),
        instruction,
        groups["adapter"],
        groups["optim"],
        train,
        sweep,
    ]
    decisive += [config.seed, RENDERING, *decisive_neighbours(config), *decisive_mix(config)]
    decisive += decisive_merge(config)
    if config.sweep.space:
        decisive += [SEARCH, *typed_as_usual(config)]
    if constraint is not None:  # which trials there are
        decisive.append(constraint.most)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def typed_as_usual(config: Config) -> list[str]:
    """The knobs of which somebody has chosen the very range or values that the files give, and the
    one end of a range that nobody has. The plan chooses others where they are left open.
    """
    if config.job.kind != "train":
        return []
    usual = {
        RATES: len(open_ends(config, ())) == len(ENDS),
        RANKS: are_usual_ranks(config, ()),
    }
    chosen = [
        f"{path} as in the files" for path in usual if usual[path] and path not in config.left_open
    ]
    return chosen + [f"{end} is open" for end in ENDS.values() if end in config.left_open]


def decisive_knob(knob: dict[str, Any]) -> dict[str, Any]:
    """A knob without what it has only as a simplex: sweeps of before have no such settings."""
    ours = ("simplex", "bounds", "natural", "merged")
    return {name: value for name, value in knob.items() if name not in ours or value is not None}


def decisive_weights(config: Config) -> dict[str, float]:
    """The weights of the sources as far as they decide something: shares, where none of them is
    searched.
    """
    paths = {name: f"data.sources.{name}.weight" for name in config.data.sources}
    acting = {
        name: config.data.sources[name].weight
        for name, path in paths.items()
        if idle_settings.why_idle(config, path) is None
    }
    total = sum(acting.values())
    searched = any(
        path in paths.values() for knob in config.sweep.space.values() for path in knob.paths
    )
    return (
        acting
        if searched or not total
        else {name: round(weight / total, 12) for name, weight in acting.items()}
    )
