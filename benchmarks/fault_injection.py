"""Which process of a sweep a fault hits, with which signal, and when."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from benchmarks import aftermath
from benchmarks.stage import Stage
from jobs.workers.coordinator import Coordinator
from jobs.workers.evaluation_task import evaluate_on_test

TARGETS = {
    "worker": (
        "ray::_RayTrainWorker",
        "ray::RayTrainWorker",
        f"ray::{evaluate_on_test.__name__}",
    ),
    "trial": ("ray::ImplicitFunc",),
    "controller": ("ray::TrainController",),
    "coordinator": (f"ray::{Coordinator.__name__}",),
    "raylet": ("raylet/raylet ",),
    "gcs": ("gcs/gcs_server ",),
}
"""How the processes of a sweep are known by their command lines."""
SIGNALS = {
    "kill": signal.SIGKILL,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "hup": signal.SIGHUP,
}
KINDS = (
    *(
        "driver-kill",
        "driver-term",
        "driver-int",
        "group-kill",
        "group-term",
        "group-int",
        "group-hup",
        "all-term",
    ),
    *("worker-kill", "worker-term", "trial-kill", "controller-kill", "coordinator-kill"),
    *("raylet-kill", "raylet-term", "gcs-kill", "gcs-term"),
)
WHILE_TRAINING = ("trial", "controller", "checkpoint")
"""Targets that are gone, or of no use, by the time when the winner is judged."""
ONCE_BEGUN = ("checkpoint", "disk", "command")
"""Targets that are there once the sweep has begun to write."""
NUM_TRIALS, NUM_REPORTS = 2, 12


def victims(
    stage: Stage, process: subprocess.Popen[str], target: str, chance: random.Random
) -> list[int]:
    """The processes that a fault of a target hits; none where they are not there yet, or not any
    more.
    """
    if process.poll() is not None:
        return []
    if target == "driver":
        return [process.pid]
    found = aftermath.processes([stage.mark])
    if target == "all":
        return list(found)
    known = [
        pid for pid, line in found.items() if any(word in f"{line} " for word in TARGETS[target])
    ]
    return [chance.choice(sorted(known))] if known else []


def hurt(stage: Stage, process: subprocess.Popen[str], kind: str, chance: random.Random) -> bool:
    """Send the signal of a kind; False when the process that it is for is not there yet, or not any
    more.
    """
    target, _, name = kind.partition("-")
    number = SIGNALS[name]
    if target == "group":
        if process.poll() is None:
            os.killpg(process.pid, number)
            return True
        return False
    chosen = victims(stage, process, target, chance)
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(chosen)


def phase_of(kind: str, chance: random.Random) -> str:
    """When a fault of a kind comes: at a time at which what it hits can be there."""
    phases = ["starting", "training", "training", "judging"]
    target = kind.partition("-")[0]
    if target in WHILE_TRAINING:
        phases.remove("judging")
    if target in ONCE_BEGUN:
        phases.remove("starting")
    return chance.choice(phases)


def wait_for_phase(
    stage: Stage,
    process: subprocess.Popen[str],
    kind: str,
    chance: random.Random,
    times: dict[str, float],
) -> str:
    """Wait for a random moment: while the sweep starts, after one of its reports, or while its
    winner is judged. Returns the phase.

    It is found by what the journal says, since a busy machine is several times slower than an idle
    one.
    """
    phase = phase_of(kind, chance)
    wanted = {
        "report": chance.randint(1, NUM_REPORTS) if phase == "training" else 0,
        "end": NUM_TRIALS if phase == "judging" else 0,
    }
    span = {"starting": times["starting"], "training": 1.0, "judging": times["judging"]}[phase]
    pause = chance.uniform(0.0, 0.9) * span
    while process.poll() is None:
        counts = Counter(event["kind"] for event in aftermath.events(stage.storage))
        if all(counts[kind] >= count for kind, count in wanted.items()):
            break
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(pause)
    return phase


def times_of(storage: Path, seconds: float) -> dict[str, float]:
    """How long a sweep took to its first report, and from the end of its trials to its own."""
    found = aftermath.events(storage)
    first = next(event["t"] for event in found if event["kind"] == "report")
    trained, over = max(event["t"] for event in found if event["kind"] == "end"), found[-1]["t"]
    before = seconds - (over - found[0]["t"]) / 1000
    return {"starting": before + (first - found[0]["t"]) / 1000, "judging": (over - trained) / 1000}
