"""What the tracking store keeps as the inputs of a run: a trial's settings and its data. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from jobs.config import Trial
from orchestrator.config.dotted_paths import leaves
from orchestrator.plan.mixes import drawn_shares
from orchestrator.plan.planner import Plan


def flat_params(trial: Trial) -> dict[str, Any]:
    """A trial's settings by dotted name, the same names for every trial of a sweep."""
    raw = dataclasses.asdict(trial)
    logged = {key: raw[key] for key in ("adapter", "optim", "train")} | {
        "seed": trial.seed,
        "model": {"name": trial.model.name},
    }
    of_data = {
        f"data.sources.{name}.{setting}": source[setting]
        for name, source in raw["data"]["sources"].items()
        for setting in ("weight", "epochs")
    }
    neighbours = raw["data"]["neighbours"]
    for setting, value in neighbours.items() if trial.data.neighbours.count else [("count", 0)]:
        of_data[f"data.neighbours.{setting}"] = value
    if trial.data.instruction:
        of_data["data.instruction"] = trial.data.instruction
    return {key: value for key, value in (leaves(logged) | of_data).items() if value is not None}


def datasets(plan: Plan, trial: Trial) -> list[dict[str, Any]]:
    """The data of one trial as the tracking store records it."""
    sources = trial.data.sources
    drawn = drawn_shares(trial.data, {name: share.rows for name, share in plan.sources.items()})
    training = [
        {
            "name": f"{trial.data.name}/{name}",
            "digest": plan.digests[f"train/{name}"],
            "source": sources[name].path or str(trial.data.folder),
            "context": "training",
            "rows": share.rows,
            "weight": drawn[name],
        }
        for name, share in plan.sources.items()
    ]
    held_out = [
        ("valid", "validation", plan.num_valid, trial.data.valid),
        ("test", "test", plan.num_test, trial.data.test),
    ]
    return training + [
        {
            "name": f"{trial.data.name}/{split}",
            "digest": plan.digests[split],
            "source": path or str(trial.data.folder or next(iter(sources.values())).path),
            "context": context,
            "rows": rows,
        }
        for split, context, rows, path in held_out
    ]
