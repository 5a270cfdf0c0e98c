"""How fast the machines are that a plan's trials run on: measured where that is this machine's
processor, else assumed. And which number format follows from it.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

from jobs.machine import speed as measurement
from jobs.machine.speed import MachineSpeed
from orchestrator.config.left_open import DTYPE
from orchestrator.config.settings import Config, changed
from orchestrator.plan.resources import Resources, count_cpus, count_gpus
from orchestrator.plan.timing import USUAL_IMPORT_SECONDS, Speed

ASSUMED_FLOPS_PER_CORE = 100e9
ASSUMED_FLOPS_PER_GPU = 30e12


@dataclass(frozen=True)
class ThisMachine:
    """What is known of the machine that a plan is made on."""

    speed: MachineSpeed | None
    """None where it was not measured: trials do not run on its processor, or measuring failed."""

    @property
    def key(self) -> str:
        """What a remembered rate depends on beside the settings."""
        return "" if self.speed is None else measurement.file_of(self.speed.threads).stem[:6]


def say(text: str) -> None:
    """A line of progress on stderr."""
    print(f"machine {text}", file=sys.stderr, flush=True)


def look(config: Config) -> ThisMachine:
    """This machine as far as the plan reckons with it; measured once, by a process of its own."""
    if config.cluster.kind != "local" or trains_on_gpus(config):
        return ThisMachine(None)
    speed = measurement.measured(count_cpus(config), say)
    if speed is None:
        say("it could not be measured; the estimate assumes a rate")
    return ThisMachine(speed)


def trains_on_gpus(config: Config) -> bool:
    """Whether trials train on GPUs of this machine."""
    return count_gpus(config) > 0 and config.train.gpus_per_worker != 0


def with_format(
    config: Config, machine: ThisMachine, before: str | None
) -> tuple[Config, str | None]:
    """The configuration with the number format that train.dtype=auto stands for, and the reason in
    words; `before` is the one that an earlier run of the sweep has chosen. Where this machine was
    not measured the workers decide.
    """
    if DTYPE not in config.left_open or machine.speed is None:
        return config, None
    speed = machine.speed
    chosen = before or speed.fastest
    reason = f"train.dtype=auto is {chosen}"
    ratio = speed.flops["bfloat16"] / speed.flops["float32"]
    if before is not None and before != speed.fastest:
        reason += ", as when this sweep began"
    elif chosen == "bfloat16":
        reason += f", {ratio:.1f} times as fast here"
    elif ratio > 1:
        reason += f": bfloat16 is no more than {ratio:.1f} times as fast here, and rounds"
    else:
        reason += f", {1 / ratio:.1f} times as fast here as bfloat16"
    train = dataclasses.replace(config.train, dtype=chosen)  # type: ignore[arg-type]
    return changed(config, train=train), reason


def speed_of(config: Config, resources: Resources, machine: ThisMachine) -> Speed:
    """What the estimate reckons with."""
    groups = resources.packs or resources.concurrent
    if resources.gpus:
        flops = ASSUMED_FLOPS_PER_GPU * resources.gpus * resources.workers * groups
        return Speed(flops, ASSUMED_FLOPS_PER_GPU, 1.0, assumed(flops))
    cores = resources.cpus * resources.workers * groups
    if machine.speed is None:
        flops = ASSUMED_FLOPS_PER_CORE * cores
        cores_of_one = max((node.cpus for node in resources.nodes), default=1)
        return Speed(flops, ASSUMED_FLOPS_PER_CORE * cores_of_one, 1.0, assumed(flops))
    speed = machine.speed
    dtype = config.train.dtype
    rate = speed.flops[speed.fastest if dtype == "auto" else dtype]
    share = min(1.0, cores / speed.threads)
    starts = (speed.import_seconds or USUAL_IMPORT_SECONDS) / USUAL_IMPORT_SECONDS
    return Speed(
        rate * share,
        speed.flops["float32"],
        starts,
        f"{rate / 1e9:,.0f} GFLOP/s measured here",
        measured=True,
    )


def assumed(flops: float) -> str:
    """Where a rate comes from that nobody measured."""
    return f"an assumed {flops / 1e9:,.0f} GFLOP/s; the first sweep measures it"
