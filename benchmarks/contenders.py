"""Who is compared, in which variants, with which command each is started, and when its work is
done.

Imports neither torch nor the peers: the process that measures stays small.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import measure
from jobs.config import BaseModel, Trial

ROOT = Path(__file__).resolve().parent.parent
OWN = ("pack", "plain")
NAMES = ("tune_trainer", "warm_trainer", "trl", *OWN)
COMMAND_FILES = ("orchestrator/**/*.py", "jobs/**/*.py", "conf/**/*.yaml")
"""What decides what this project's command does."""
MEASURING_FILES = ("benchmarks/contenders.py", "benchmarks/measure.py")
OWN_FILES = (*COMMAND_FILES, *MEASURING_FILES)
PEER_FILES = (
    *("benchmarks/peers*.py", *MEASURING_FILES, "jobs/**/*.py", "conf/**/*.yaml"),
    *("orchestrator/config/*.py", "orchestrator/plan/*.py", "orchestrator/launch/*.py"),
)
"""A peer trains the trials that this project's plan draws, under the same start of Ray."""
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "ray", "mlflow")


@dataclass(frozen=True)
class Work:
    """What every contender gets."""

    trials: list[Trial]
    base: BaseModel
    overrides: list[str]
    """The trials as this project's command is told of them."""
    cores: int
    gpus: int


@dataclass(frozen=True)
class Outcome:
    """What a contender has found."""

    ended: float
    """Seconds since the epoch at which the last trial's validation loss was known."""
    losses: list[float]
    """Final validation loss of each trial, in nats per answer token."""
    note: str = ""

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        draft = path.with_name(path.name + ".draft")
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(draft, path)


@dataclass(frozen=True)
class Measurement:
    """One contender's way through all trials, once."""

    makespan_seconds: float
    peak_memory_mb: float
    final_losses: list[float]
    note: str


def variants(name: str, work: Work, concurrency: str | None) -> list[str]:
    """The ways in which a contender is tried; the fastest counts."""
    if name == "trl":
        return ["padding_free", "padded"]
    if name != "tune_trainer":
        return [""]
    if concurrency is not None:
        return concurrency.split(",")
    most = min(len(work.trials), work.cores) if work.gpus else 2
    return [
        str(2**power) for power in range(int(math.log2(most)) + 1)
    ]  # on a GPU those that do not fit its memory fail, and are left out


def run(name: str, variant: str, work: Work) -> Measurement:
    """Measure one contender from its command to its last result. Raises RuntimeError with the end
    of its output when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="makespan-") as place:
        folder = Path(place)
        (folder / "work.pkl").write_bytes(pickle.dumps(work))
        log = folder / "log.txt"
        if name in OWN:
            storage = folder / "storage"
            command = [
                "-m",
                "orchestrator",
                *work.overrides,
                f"executor={name}",
                f"storage={storage}",
                "output=json",
            ]
            watched = measure.run(
                [sys.executable, *command],
                environment(name),
                log,
                lambda: read_journal(storage, work) is not None,
            )
            outcome = read_journal(storage, work)
        else:
            module = (
                ["benchmarks.peers_tune"] if name == "tune_trainer" else ["benchmarks.peers", name]
            )
            command = [
                "-m",
                *module,
                variant,
                str(folder / "work.pkl"),
                str(folder / "outcome.json"),
            ]
            watched = measure.run([sys.executable, *command], environment(name), log)
            outcome = (
                Outcome(**json.loads(text)) if (text := read(folder / "outcome.json")) else None
            )
        if outcome is None:
            raise RuntimeError(
                f"{name} {variant} ended with code {watched.code} and no "
                f"result:\n{read(log)[-3000:]}"
            )
    return Measurement(
        outcome.ended - watched.began, watched.peak_memory_mb, outcome.losses, outcome.note
    )


def environment(name: str) -> dict[str, str]:
    """The user's environment without its number of threads: every contender sets its own.

    In all of them threads spin for some microseconds while they wait, then sleep, as in this
    project's workers: threads that only sleep make small products slow, threads that only spin slow
    each other down on a shared machine.
    """
    given = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    given["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [given.get("PYTHONPATH")])])
    given.setdefault("GOMP_SPINCOUNT", "10000")
    if name in ("warm_trainer", "trl"):  # with more, Trainer would split each batch between them
        given["CUDA_VISIBLE_DEVICES"] = given.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return given


def read_journal(storage: Path, work: Work) -> Outcome | None:
    """What this project's journal says once all trials have ended. The command goes on to judge the
    winner, which the others do not do.
    """
    steps, ends, losses = work.trials[0].train.steps, {}, {}
    for event in journal(storage):
        if event["kind"] == "end":
            if event["state"] != "finished":
                raise RuntimeError(f"trial {event['trial']} {event['state']}: {event['error']}")
            ends.setdefault(event["trial"], event["t"] / 1000)
        elif (
            event["kind"] == "report"
            and event["step"] == steps
            and "valid/loss" in event["metrics"]
        ):  # the winner's test scores follow
            losses[event["trial"]] = event["metrics"]["valid/loss"]
    if len(ends) < len(work.trials):
        return None
    return Outcome(max(ends.values()), [losses[trial.index] for trial in work.trials])


def journal(storage: Path) -> Iterator[dict[str, Any]]:
    """The events of the only sweep in a store. Its last line may still be half-written."""
    for file in storage.glob("sweeps/*/journal.jsonl"):
        for line in file.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


def read(path: Path) -> str:
    """The text of a file, nothing when it is not there."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def code_version(name: str) -> str:
    """Hash of the code and the library versions that decide what a contender does."""
    return digest_of(OWN_FILES if name in OWN else PEER_FILES)


def digest_of(patterns: Iterable[str]) -> str:
    """Hash of the files of this project that match, and of the libraries' versions."""
    files = sorted({file for pattern in patterns for file in ROOT.glob(pattern)})
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    for package in PACKAGES:
        total.update(f"{package} {installed(package)}\n".encode())
    return total.hexdigest()


def installed(package: str) -> str | None:
    """The version of a package, None when it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
