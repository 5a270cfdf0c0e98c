"""How long a sweep should take and how much disk it needs, and where those figures come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.base_models.hf_folder import num_weights
from jobs.config import BaseModel
from jobs.files import filesystem
from jobs.files.checkpoints import KEPT
from jobs.files.storage_faults import free_bytes, size
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.plan.resources import Resources
from orchestrator.plan.rungs import rung_steps, survivors
from orchestrator.plan.throughput import adapted, rate_key, read_rates
from orchestrator.storage.paths import storage_folder

ASSUMED_FLOPS_PER_CORE = 100e9
ASSUMED_FLOPS_PER_GPU = 30e12
SECONDS_PER_START = 25
"""A Ray Train job from its start to the first step, imports included, on two busy cores."""
LORA_SHARE = 0.005
"""Bytes of a LoRA checkpoint per unit of rank, optimizer state included, as a share of the base's
in float32: 0.4 % for SmolLM2-135M.
"""


@dataclass(frozen=True)
class Estimate:
    """How long it should take, and why we think so."""

    seconds: float
    origin: str


def estimate(
    config: Config,
    base: BaseModel | None,
    resources: Resources,
    num_trials: int,
    tokens: float,
    final_steps: int = 0,
) -> Estimate | None:
    """Seconds for the whole command; None without the base model. From this machine's last rate for
    this model if there is one. `final_steps` are those of the finalists, after the sweep.
    """
    if base is None:
        return None
    rungs = rung_steps(config)
    halving = config.sweep.scheduler == "halving"
    counts = (
        survivors(num_trials, rungs, config.sweep.reduction)
        if halving
        else [num_trials] * len(rungs)
    )
    lengths = [rung - before for rung, before in zip(rungs, [0, *rungs], strict=False)]
    rates = [
        known_rate(config, base, resources, tokens, at_once(resources, count)) for count in counts
    ]
    examples = [
        count * length * config.train.batch_size
        for count, length in zip(counts, lengths, strict=True)
    ]
    training = sum(
        num_examples / rate for num_examples, (rate, _) in zip(examples, rates, strict=True)
    )
    origin = rates[0][1]
    if final_steps:
        rate, _ = known_rate(
            config, base, resources, tokens, at_once(resources, max(config.final.count, 1))
        )
        training += final_steps * config.train.batch_size / rate + SECONDS_PER_START
    if resources.packs:
        starts = resources.concurrent
    else:
        starts = sum(counts) if halving else num_trials
    return Estimate(training + starts * SECONDS_PER_START / resources.concurrent + 60, origin)


def at_once(resources: Resources, num_trials: int) -> int:
    """How many trials one row serves that goes through the layers below their adapters: those of a
    pack, where it has one worker.
    """
    return (
        max(1, min(num_trials, resources.concurrent) // resources.packs)
        if resources.packs and resources.workers == 1
        else 1
    )


def known_rate(
    config: Config, base: BaseModel, resources: Resources, tokens: float, together: int = 1
) -> tuple[float, str]:
    """Examples per second of all concurrent trials, `together` of them in a pack, and where the
    figure comes from.
    """
    remembered = read_rates(config.storage).get(rate_key(config, resources))
    if remembered:
        groups = 1 if resources.packs else resources.concurrent
        return remembered[
            "examples_per_second"
        ] * groups, f"the rate of {remembered.get('sweep')} on this machine"
    groups = resources.packs or resources.concurrent
    cores = resources.cpus * resources.workers * groups
    speed = (
        ASSUMED_FLOPS_PER_GPU * resources.gpus * resources.workers * groups
        if resources.gpus
        else ASSUMED_FLOPS_PER_CORE * cores
    )
    forward = 2 * max(num_weights(Path(base.path)), 1) * max(tokens, 1)
    upper = adapted(config)  # backward only through layers that learn
    per_example = forward * (2 * upper + (1 - upper) / together)
    return (
        speed / per_example,
        f"an assumed {speed / 1e9:,.0f} GFLOP/s; the first sweep measures it",
    )


def disk_bytes(config: Config, base: BaseModel, num_trials: int) -> int:
    """Room for the checkpoints of a sweep: what is kept of every trial that can still win, and the
    exported version.
    """
    trained = 4 * num_weights(Path(base.path))  # in float32, whatever the base is kept in
    share = (
        3.0 if config.adapter.kind == "full" else LORA_SHARE * config.adapter.rank * adapted(config)
    )
    return int(trained * share * (KEPT * num_trials + 1))


def check_disk(config: Config, base: BaseModel, num_trials: int, folder: Path) -> None:
    """Raise InputError when the checkpoints of the sweep in `folder` would fill the disk."""
    if filesystem.is_uri(config.storage):
        return
    needed = disk_bytes(config, base, num_trials)
    existing_bytes = sum(
        file.stat().st_size for file in (folder / "train").rglob("*") if file.is_file()
    )
    free = free_bytes(str(storage_folder(config.storage)))
    if free is not None and free + existing_bytes < needed:
        more = f" more, beside the {size(existing_bytes)} that are there" if existing_bytes else ""
        sizes = (
            f"{size(free)} free, and {num_trials} trials may leave "
            f"{size(needed - existing_bytes)} of checkpoints{more}"
        )
        raise InputError(
            f"storage {config.storage}: {sizes}; free some space, or choose another one: "
            "storage=FOLDER"
        )
