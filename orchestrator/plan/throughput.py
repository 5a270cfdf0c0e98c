"""Remembered rates: how fast sweeps on a machine were, beside their estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.files.json_types import JsonObject
from jobs.machine.identity import gpu_names
from orchestrator.config.run_numbers import is_finalist
from orchestrator.config.settings import Config
from orchestrator.plan.pace import is_rung, is_step, training_rate
from orchestrator.plan.resources import Resources
from orchestrator.plan.stretches import seconds_done, steps_done
from orchestrator.plan.timing import Timing
from orchestrator.storage.journal import Journal
from orchestrator.storage.json_files import read_object, write_json
from orchestrator.storage.paths import storage_folder

MOST_EFFICIENCY = 20.0
FORMULA = 3
"""Goes up with orchestrator/plan/timing.py: a rate is told as a multiple of its estimate."""


def adapted(config: Config) -> float:
    """The share of the base's layers that learn."""
    return 1.0 if config.adapter.kind == "full" else config.adapter.layers


def rate_key(config: Config, resources: Resources, machine: str = "") -> str:
    """What a remembered rate depends on; `machine` stands for this one as it is now. Where trials
    train on GPUs their models tell machines apart.
    """
    kind = config.adapter.kind + (f" of {adapted(config):g}" if adapted(config) < 1 else "")
    packs = f" {resources.packs} packs" if resources.packs else ""
    trained_on = [
        config.train.dtype,
        machine,
        *(sorted(set(gpu_names())) if resources.gpus else []),
    ]
    return (
        f"{config.model.name} {config.data.name} {kind} {resources.workers}x{resources.cpus}cpu "
        f"{resources.gpus:g}gpu{packs} {' '.join(filter(None, trained_on))} by {FORMULA}"
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
    estimate: a trial's median step, or what all packs did together, evaluations included. The
    estimate is that of what was trained: a budget, or losses, may have ended trials before.
    `timing` is the plan's.
    """
    if timing is None:
        return
    config, resources = timing.config, timing.resources
    events = [event for event in journal.events() if not is_finalist(event.get("trial") or 0)]
    rate = training_rate(events, config.train.batch_size, packed=resources.packs > 0)
    expected = expected_rate(timing, num_trials, events)
    if rate is None or expected is None:
        return
    if not resources.packs:
        rate *= resources.concurrent
    efficiency = timing.speed.efficiency * rate / expected
    efficiency = min(MOST_EFFICIENCY, max(1 / MOST_EFFICIENCY, efficiency))
    rate_by_key = read_rates(config.storage)
    rate_by_key[rate_key(config, resources, machine)] = {
        "efficiency": efficiency,
        "examples_per_second": rate,
        "sweep": journal.folder.name,
    }
    write_json(storage_folder(config.storage) / "rates.json", rate_by_key)


def expected_rate(timing: Timing, num_trials: int, events: Sequence[JsonObject]) -> float | None:
    """Examples per second by the estimate, of the steps that the journal's `events` tell of: all
    trials that train by themselves without their evaluations, or packs with them. None where no
    step is told.
    """
    if not timing.resources.packs:
        return timing.resources.concurrent * timing.batch / timing.step_seconds(1)
    reached: dict[int, int] = {}
    evaluated: dict[int, int] = {}
    for event in events:
        if is_step(event):
            reached[event["trial"]] = max(event["step"], reached.get(event["trial"], 0))
        if event["kind"] == "report" and is_rung(event):
            evaluated[event["trial"]] = max(event["step"], evaluated.get(event["trial"], 0))
    phases = timing.phases(num_trials)
    seconds = seconds_done(phases, [*reached.values()], [*evaluated.values()])
    steps = steps_done(phases, [*reached.values()])
    return steps * timing.batch / seconds if steps > 0 and seconds > 0 else None
