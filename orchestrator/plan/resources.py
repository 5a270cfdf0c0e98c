"""What a trial takes of the machines, and how many run at once. Pure but for counting this machine;
loads no library for that.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.machine.cores import usable_cores
from orchestrator.config.executor import Executor
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError

MAX_CONCURRENT_ON_CPU = 12
MAX_SLOTS_PER_GPU = 16
TRIAL_BYTES = 220 * 10**6
"""Memory on the head of each trial that is under way, for its own small process
(benchmarks.overhead: 208 MB).
"""
DRIVER_BYTES = 3 * 10**9
"""Memory on the head for the command itself and Ray's daemons."""


MOST_IDLE = 0.125
"""Share of the cores that may be left over where processes share them."""


@dataclass(frozen=True)
class Node:
    """One machine that work can be placed on."""

    cpus: int
    gpus: int = 0

    def holds(self, cpus: int, gpus: float) -> int:
        """How many workers of that size fit."""
        return min(self.cpus // max(cpus, 1), int(self.gpus / gpus) if gpus else self.cpus)


@dataclass(frozen=True)
class Resources:
    """What a trial takes and how many run at once."""

    concurrent: int
    workers: int
    cpus: int
    """CPU cores per worker."""
    gpus: float
    """GPUs per worker."""
    nodes: tuple[Node, ...]
    """What there is, or on a cluster that grows what there may be."""
    packs: int = 0
    """Worker groups that train many trials each; 0 when each trial has its own."""

    @property
    def num_cpus(self) -> int:
        """CPU cores of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def share(self, num_tasks: int) -> tuple[int, float]:
        """CPU cores and GPUs of each of a few tasks of one process that run at the same time."""
        together = -(-num_tasks // len(self.nodes))
        cpus = max(node.cpus for node in self.nodes)
        gpus = max(node.gpus for node in self.nodes)
        return max(1, cpus // together), min(1.0, gpus / together)

    def groups(self, seconds: Mapping[str, float], most: int = 1) -> list[list[str]]:
        """Which of a few tasks, by what each takes, one process does, one after the other. Where
        they share one machine's processor there are at most `most` processes, with about as much
        to do each.
        """
        tasks = list(seconds)
        if not tasks or len(self.nodes) > 1 or self.num_gpus:
            return [[task] for task in tasks]
        cores = self.num_cpus
        counts = range(1, min(most, cores, len(tasks)) + 1)
        even = (count for count in counts if cores % count <= MOST_IDLE * cores)
        num_groups = max(even, default=1)
        groups: list[list[str]] = [[] for _ in range(num_groups)]
        for task in sorted(tasks, key=lambda task: -seconds[task]):
            min(groups, key=lambda group: sum(seconds[name] for name in group)).append(task)
        return groups


def this_machine(config: Config) -> tuple[Node, ...]:
    """This machine, as far as Ray may use it."""
    return (Node(count_cpus(config), count_gpus(config)),)


def count_cpus(config: Config) -> int:
    """CPU cores that may be used."""
    available = usable_cores()
    return min(config.cluster.num_cpus or available, available)


def count_gpus(config: Config) -> int:
    """NVIDIA GPUs of this machine, found without loading any library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = Path("/dev")
    present = (
        sum(1 for device in devices.glob("nvidia*") if device.name[6:].isdigit())
        if devices.is_dir()
        else 0
    )
    if visible is not None:
        present = min(
            present, len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
        )
    return present if config.cluster.num_gpus is None else min(config.cluster.num_gpus, present)


def describe(nodes: tuple[Node, ...]) -> str:
    """ "3 nodes of 4 CPU cores, 1 node of 8 CPU cores and 2 GPUs"."""
    descriptions = []
    for node, count in Counter(nodes).items():
        gpus = f" and {node.gpus} GPU{'s' if node.gpus > 1 else ''}" if node.gpus else ""
        descriptions.append(
            f"{count} node{'s' if count > 1 else ''} of {node.cpus} CPU "
            f"core{'s' if node.cpus != 1 else ''}{gpus}"
        )
    return ", ".join(descriptions)


def problems(config: Config, nodes: tuple[Node, ...], per_gpu: float) -> list[tuple[str, str]]:
    """Why not even one trial fits, with the numbers."""
    train = config.train
    local = config.cluster.kind == "local"
    least = train.cpus_per_worker or 1
    gpus = sum(node.gpus for node in nodes)
    where = (
        f"the {gpus} GPUs of this machine"
        if local
        else f"what this cluster has or may scale to: {describe(nodes)}"
    )
    faults = []
    if per_gpu and sum(int(node.gpus / per_gpu) for node in nodes) < train.num_workers:
        asked = f"{per_gpu:g} for each of {train.num_workers} workers"
        faults.append(
            (
                "train.gpus_per_worker",
                f"{asked} is more than {where}; leave it out to train on what is here",
            )
        )
    if sum(node.holds(least, 0) for node in nodes) < train.num_workers:
        name = "train.cpus_per_worker" if train.cpus_per_worker else "train.num_workers"
        room = f"{nodes[0].cpus} CPU cores" if local else describe(nodes)
        faults.append(
            (name, f"{train.num_workers} workers of {least} cores do not fit into {room}")
        )
    elif not faults and sum(node.holds(least, per_gpu) for node in nodes) < train.num_workers:
        faults.append(
            (
                "train.num_workers",
                f"{train.num_workers} workers of {least} cores and {per_gpu:g} GPUs do not fit "
                f"into {where}",
            )
        )
    if local and config.cluster.num_gpus is not None and config.cluster.num_gpus > gpus:
        faults.append(
            (
                "cluster.num_gpus",
                f"{config.cluster.num_gpus} is more than the {gpus} GPUs of this machine",
            )
        )
    return faults


def divide(
    config: Config, num_trials: int, nodes: tuple[Node, ...], executor: Executor = "plain"
) -> Resources:
    """Share the nodes between trials, or packs of trials. Raises ConfigError with the numbers when
    even one trial does not fit.
    """
    train = config.train
    gpus = sum(node.gpus for node in nodes)
    per_gpu = (
        train.gpus_per_worker
        if train.gpus_per_worker is not None
        else min(gpus // train.num_workers, 1)
    )
    if faults := problems(config, nodes, per_gpu):
        raise ConfigError(faults)
    if per_gpu:
        nodes = tuple(node for node in nodes if node.gpus)
    fits = (
        sum(node.holds(train.cpus_per_worker or 1, per_gpu) for node in nodes) // train.num_workers
    )
    if executor == "pack":
        # One for each GPU (or train.num_workers of them), or one for each machine's cores.
        packs = min(fits, num_trials) if per_gpu else min(fits, len(nodes), num_trials)
        most = packs * (MAX_SLOTS_PER_GPU if per_gpu else MAX_CONCURRENT_ON_CPU)
        concurrent = max(1, min(num_trials, config.sweep.max_concurrent or most, most))
        groups = packs = min(packs, concurrent)
    else:
        most = fits if per_gpu else min(fits, MAX_CONCURRENT_ON_CPU * len(nodes))
        groups = concurrent = max(1, min(most, num_trials, config.sweep.max_concurrent or most))
        packs = 0
    cpus = train.cpus_per_worker or widest(nodes, groups * train.num_workers, per_gpu)
    return Resources(concurrent, train.num_workers, cpus, per_gpu, nodes, packs)


def head_problem(resources: Resources, head_bytes: float) -> str | None:
    """Why a cluster's head cannot hold the processes of the trials that are under way at once, with
    the numbers, or None.
    """
    most = int((head_bytes - DRIVER_BYTES) // TRIAL_BYTES)
    if resources.concurrent <= most:
        return None
    needed = (DRIVER_BYTES + resources.concurrent * TRIAL_BYTES) / 1e9
    have = (
        f"{resources.concurrent} trials at a time need {needed:.0f} GB of memory on the head, "
        f"which has {head_bytes / 1e9:.0f} GB"
    )
    return f"{have}; set sweep.max_concurrent={max(most, 1)}, or give the head more"


def widest(nodes: tuple[Node, ...], num_workers: int, per_gpu: float) -> int:
    """Most cores that each of so many workers can have at once."""
    sizes = range(max(node.cpus for node in nodes), 0, -1)
    return next(
        (size for size in sizes if sum(node.holds(size, per_gpu) for node in nodes) >= num_workers),
        1,
    )
