"""What a trial takes of this machine, and how many run at once. Loads no library to find out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Config
from orchestrator.errors import ConfigError
from orchestrator.executor import Executor

MAX_CONCURRENT_ON_CPU = 8
MAX_SLOTS_PER_GPU = 16


@dataclass(frozen=True)
class Resources:
    """What a trial takes and how many run at once."""

    concurrent: int
    workers: int
    cpus: int
    """CPU cores per worker."""
    gpus: float
    """GPUs per worker."""
    machine_cpus: int
    machine_gpus: int
    packs: int = 0
    """Worker groups that train many trials each; 0 when each trial has its own."""


def count_cpus(config: Config) -> int:
    """CPU cores that may be used."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(config.cluster.num_cpus or available, available)


def count_gpus(config: Config) -> int:
    """NVIDIA GPUs of this machine, found without loading any library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = Path("/dev")
    present = sum(1 for device in devices.glob("nvidia*") if device.name[6:].isdigit()) if devices.is_dir() else 0
    if visible is not None:
        present = min(present, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
    return present if config.cluster.num_gpus is None else min(config.cluster.num_gpus, present)


def divide(config: Config, num_trials: int, cpus: int, gpus: int, executor: Executor = "plain") -> Resources:
    """Share the machine between trials, or packs of trials. Raises ConfigError with the numbers when even one trial does not fit."""
    train, found = config.train, []
    per_gpu = train.gpus_per_worker if train.gpus_per_worker is not None else min(gpus // train.num_workers, 1)
    if per_gpu * train.num_workers > gpus:
        asked = f"{per_gpu:g} for each of {train.num_workers} workers"
        found.append(
            ("train.gpus_per_worker", f"{asked} is more than the {gpus} GPUs of this machine; leave it out to train on what is here")
        )
    if train.num_workers * (train.cpus_per_worker or 1) > cpus:
        name = "train.cpus_per_worker" if train.cpus_per_worker else "train.num_workers"
        found.append((name, f"{train.num_workers} workers of {train.cpus_per_worker or 1} cores do not fit into {cpus} CPU cores"))
    if config.cluster.num_gpus is not None and config.cluster.num_gpus > gpus:
        found.append(("cluster.num_gpus", f"{config.cluster.num_gpus} is more than the {gpus} GPUs of this machine"))
    if found:
        raise ConfigError(found)
    if executor == "pack":
        return divide_packs(config, num_trials, cpus, gpus, per_gpu)
    fits = cpus // (train.num_workers * (train.cpus_per_worker or 1))
    fits = min(fits, int(gpus / (per_gpu * train.num_workers))) if per_gpu else min(fits, MAX_CONCURRENT_ON_CPU)
    concurrent = max(1, min(fits, num_trials, config.sweep.max_concurrent or fits))
    share = train.cpus_per_worker or max(1, cpus // (concurrent * train.num_workers))
    return Resources(concurrent, train.num_workers, share, per_gpu, cpus, gpus)


def divide_packs(config: Config, num_trials: int, cpus: int, gpus: int, per_gpu: float) -> Resources:
    """One pack per GPU (per `train.num_workers` GPUs), or one for the machine's cores; no more packs than there are trials."""
    train = config.train
    packs = min(int(gpus / (per_gpu * train.num_workers)), num_trials) if per_gpu else 1
    most = packs * MAX_SLOTS_PER_GPU if per_gpu else MAX_CONCURRENT_ON_CPU
    concurrent = max(1, min(num_trials, config.sweep.max_concurrent or most, most))
    packs = min(packs, concurrent)
    share = train.cpus_per_worker or max(1, cpus // (packs * train.num_workers))
    return Resources(concurrent, train.num_workers, share, per_gpu, cpus, gpus, packs)
