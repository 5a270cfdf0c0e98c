"""Remembered rates: how fast sweeps on a machine were, beside their estimates."""

from __future__ import annotations

from typing import Any

from orchestrator.config.settings import Config
from orchestrator.plan.pace import training_rate
from orchestrator.plan.resources import Resources
from orchestrator.plan.timing import Timing
from orchestrator.storage.journal import Journal
from orchestrator.storage.json_files import read_object, write_json
from orchestrator.storage.paths import storage_folder

MOST_EFFICIENCY = 20.0
FORMULA = 2
"""Goes up with orchestrator/plan/timing.py: a rate is told as a multiple of its estimate."""


def adapted(config: Config) -> float:
    """The share of the base's layers that learn."""
    return 1.0 if config.adapter.kind == "full" else config.adapter.layers


def rate_key(config: Config, resources: Resources, machine: str = "") -> str:
    """What a remembered rate depends on; `machine` stands for this one as it is now."""
    kind = config.adapter.kind + (f" of {adapted(config):g}" if adapted(config) < 1 else "")
    packs = f" {resources.packs} packs" if resources.packs else ""
    measured = f" {config.train.dtype} {machine}" if machine else ""
    return (
        f"{config.model.name} {config.data.name} {kind} {resources.workers}x{resources.cpus}cpu "
        f"{resources.gpus:g}gpu{packs}{measured} by {FORMULA}"
    )


def read_rates(storage: str) -> dict[str, Any]:
    """The remembered rates by what they depend on; what is no rate is left out."""
    rate_by_key = read_object(storage_folder(storage) / "rates.json")
    return {
        key: entry
        for key, entry in rate_by_key.items()
        if isinstance(entry, dict) and is_rate(entry.get("efficiency"))
    }


def is_rate(value: Any) -> bool:
    """Whether it is a rate to reckon with."""
    return isinstance(value, int | float) and 0 < value < float("inf")


def remember_rate(timing: Timing | None, machine: str, num_trials: int, journal: Journal) -> None:
    """Keep how fast this sweep has trained beside what its estimate said, for the next plan's
    estimate: a trial's median, or what all packs did together. `timing` is the plan's.
    """
    if timing is None:
        return
    config, resources = timing.config, timing.resources
    rate = training_rate(
        list(journal.events()), config.train.batch_size, packed=resources.packs > 0
    )
    phases = timing.phases(num_trials)
    planned = sum(phase.seconds for phase in phases)
    if rate is None or planned <= 0:
        return
    if not resources.packs:
        rate *= resources.concurrent
    expected = sum(phase.steps for phase in phases) * config.train.batch_size / planned
    efficiency = timing.speed.efficiency * rate / expected
    efficiency = min(MOST_EFFICIENCY, max(1 / MOST_EFFICIENCY, efficiency))
    rate_by_key = read_rates(config.storage)
    rate_by_key[rate_key(config, resources, machine)] = {
        "efficiency": efficiency,
        "examples_per_second": rate,
        "sweep": journal.folder.name,
    }
    write_json(storage_folder(config.storage) / "rates.json", rate_by_key)
