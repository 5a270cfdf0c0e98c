"""Remembered rates: examples per second that a machine has reached."""

from __future__ import annotations

from typing import Any

from orchestrator.config.settings import Config
from orchestrator.plan.pace import training_rate
from orchestrator.plan.resources import Resources
from orchestrator.storage.journal import Journal
from orchestrator.storage.json_files import read_object, write_json
from orchestrator.storage.paths import storage_folder


def adapted(config: Config) -> float:
    """The share of the base's layers that learn."""
    return 1.0 if config.adapter.kind == "full" else config.adapter.layers


def rate_key(config: Config, resources: Resources) -> str:
    """What a remembered training rate depends on."""
    kind = config.adapter.kind + (f" of {adapted(config):g}" if adapted(config) < 1 else "")
    packs = f" {resources.packs} packs" if resources.packs else ""
    return (
        f"{config.model.name} {config.data.name} {kind} {resources.workers}x{resources.cpus}cpu "
        f"{resources.gpus:g}gpu{packs}"
    )


def read_rates(storage: str) -> dict[str, Any]:
    """The remembered rates by what they depend on; what is no rate is left out."""
    rate_by_key = read_object(storage_folder(storage) / "rates.json")
    return {
        key: entry
        for key, entry in rate_by_key.items()
        if isinstance(entry, dict) and is_rate(entry.get("examples_per_second"))
    }


def is_rate(value: Any) -> bool:
    """Whether it is a rate to reckon with."""
    return isinstance(value, int | float) and 0 < value < float("inf")


def remember_rate(config: Config, resources: Resources, sweep: str, journal: Journal) -> None:
    """Keep this sweep's training rate for the next plan's estimate of time: a trial's median, or
    that of all packs together.
    """
    rate = training_rate(
        list(journal.events()), config.train.batch_size, packed=resources.packs > 0
    )
    if rate is not None:
        rate_by_key = read_rates(config.storage)
        rate_by_key[rate_key(config, resources)] = {"examples_per_second": rate, "sweep": sweep}
        write_json(storage_folder(config.storage) / "rates.json", rate_by_key)
