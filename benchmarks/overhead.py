"""What Ray Tune, the coordinator and MLflow cost a trial: a whole sweep whose training step does no
work.

    python -m benchmarks.overhead [--trials 8,64,256] [--slots 8] [--json FILE]

Everything is real (Tune's trials, the coordinator, the journal, MLflow on SQLite, checkpoints on
disk) but the pack, which lives in the sweep's process and only counts. Each sweep is a process of
its own. The cost of a trial is the slope between the two largest sweeps, so that what is paid once
does not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import answer
from jobs.base_models import fetch
from jobs.config import Scoring, Trial
from jobs.evaluation.evaluate import EvaluationSums
from jobs.files.manifest import Snapshot
from jobs.training.distributed import World
from orchestrator.config.compose import compose
from orchestrator.config.validation import build
from orchestrator.launch import ray_local
from orchestrator.output.progress import ProgressDisplay
from orchestrator.pipeline import SweepCommand
from orchestrator.plan import planner as planning
from orchestrator.sweep import runner

METRICS = {
    "train/loss": 1.0,
    "train/learning_rate": 1e-3,
    "train/gradient_norm": 1.0,
    "train/tokens_per_second": 1.0,
    "train/examples_per_second": 1.0,
}


class Idle:
    """A slot that trains nothing."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.step = trial, 0
        self.course = self

    def snapshot(self) -> Snapshot:
        """An empty model."""
        return Snapshot(lambda folder: (folder / "model").mkdir(), 0)

    def drawn(self, steps: int) -> dict[str, float]:
        """No source gives anything."""
        return {}


class IdlePack:
    """A pack whose steps take no time; see jobs.pack.engine.Pack."""

    def __init__(self) -> None:
        self.world, self.slots, self.scorings = World(), {}, {0: Scoring()}

    def join(self, number: int, trial: Trial, checkpoint: Path | None = None) -> None:
        self.slots[number] = Idle(trial)

    def leave(self, number: int) -> None:
        del self.slots[number]

    def step(self, numbers: list[int]) -> dict[int, dict[str, float]]:
        for number in numbers:
            self.slots[number].step += 1
        return dict.fromkeys(numbers, METRICS)

    def corpus(self, trial: Trial) -> tuple[list[Any], list[Any], list[Any]]:
        """No examples."""
        return [], [], []

    def unreadable(self, number: int) -> str | None:
        return None

    def failure(self, number: int) -> str | None:
        return None

    def evaluate(self, numbers: list[int]) -> dict[int, EvaluationSums]:
        return {number: EvaluationSums(1.0, 1, number % 2, 1) for number in numbers}


def start_idle(sweep_state: Any) -> list[threading.Thread]:
    """One pack in a thread of this process."""
    from jobs.files.checkpoints import CheckpointStore
    from jobs.pack import loop
    from jobs.workers.pack_worker import RankZeroClient

    pack: Any = IdlePack()
    loop.validate = lambda pack, slot_ids: pack.evaluate(
        slot_ids
    )  # without a model there is no pass
    checkpoints = CheckpointStore(
        str(sweep_state.journal.folder / "train"), sweep_state.metric, sweep_state.maximise
    )
    thread = threading.Thread(
        target=loop.serve,
        args=(pack, RankZeroClient(sweep_state.coordinator, 0, World()), checkpoints),
        daemon=True,
    )
    thread.start()
    return [thread]


def sample(peaks: dict[str, float], over: threading.Event) -> None:
    """Note the largest trial process and how many there are, until it is over."""
    while not over.wait(0.5):
        sizes = []
        for process in psutil.Process().children(recursive=True):
            try:
                if "ImplicitFunc" in "".join(process.cmdline()) or "attempt" in "".join(
                    process.cmdline()
                ):
                    sizes.append(process.memory_info().rss / 1e6)
            except psutil.Error:
                continue
        peaks["trial_process_mb"] = max([peaks.get("trial_process_mb", 0.0), *sizes])
        peaks["trial_processes"] = max(peaks.get("trial_processes", 0.0), len(sizes))


def one(num_trials: int, slots: int, folder: Path) -> dict[str, float]:
    """Seconds and what is left behind by one sweep of `num_trials` trials."""
    settings = [
        "model=tiny",
        "data=icd10",
        "executor=pack",
        f"sweep.num_trials={num_trials}",
        f"sweep.max_concurrent={slots}",
        f"storage={folder}",
    ]
    settings += [
        "sweep.space={lr: {path: optim.lr, type: loguniform, low: 0.0001, high: 0.01}}",
        "train.steps=2",
        "train.eval_every=1",
    ]
    config = build(compose(settings, None))
    fetch.prepare(config.model)
    plan = planning.make(config)
    command = SweepCommand(plan.config, "", [], plan, folder / "sweep", time.monotonic())
    command.folder.mkdir(parents=True)
    store = command.connect()
    command.journal.append("sweep", name=plan.name, params={}, tags={}, config="", datasets=[])
    return run(command, store, plan)


def run(command: Any, store: Any, plan: Any) -> dict[str, float]:
    """The sweep itself, under a Ray of its own."""
    from orchestrator.sweep.state import SweepState
    from orchestrator.tracking.outbox import OutboxWorker

    peaks: dict[str, float] = {}
    with (
        ray_local.local(plan.resources),
        ProgressDisplay(plan.num_trials, 2, command.config.sweep.metric) as screen,
    ):
        import ray

        screen.line = lambda text, always=False: None
        sweep_state = SweepState(
            plan, command.base, command.journal, screen, {"tags": {}, "config": ""}
        )
        sweep_state.coordinator = runner.coordinator_for(plan)
        writer = OutboxWorker(lambda: store, command.folder)
        over = threading.Event()
        threading.Thread(target=sample, args=(peaks, over), daemon=True).start()
        began = time.perf_counter()
        writer.start()
        runner.run(sweep_state, start_idle)
        swept = time.perf_counter() - began
        left = writer.close(600)
        total = time.perf_counter() - began
        over.set()
        finished = sum(record.state == "finished" for record in sweep_state.records.values())
        assert finished == plan.num_trials and left == 0, (finished, left)
        free = ray.available_resources().get("CPU", 0.0)
        gc.collect()
        kept = {
            "free_cpus": free,
            "driver_mb": psutil.Process().memory_info().rss / 1e6,
            "open_files": float(len(os.listdir("/proc/self/fd"))),
        }
    return {"seconds": total, "sweep_seconds": swept, **peaks, **kept}


def apart(num_trials: int, slots: int) -> dict[str, float]:
    """One sweep in a process of its own, so that its memory and its open files are its own."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        file = Path(folder) / "result.json"
        line = [sys.executable, "-m", "benchmarks.overhead", "--only", str(num_trials)]
        line += ["--slots", str(slots), "--json", str(file)]
        done = subprocess.run(line, check=False)
        if done.returncode:
            sys.exit(f"the sweep of {num_trials} trials ended with exit code {done.returncode}")
        return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    """Measure each size in a process of its own, print, and write the JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=lambda text: [int(part) for part in text.split(",")], default=[8, 64, 256]
    )
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", type=int, help="one sweep of so many trials, in this process")
    options = parser.parse_args()
    if options.only is not None:
        if options.json is None:
            parser.error("--only needs --json")
        with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
            measured = one(options.only, options.slots, Path(folder))
        options.json.write_text(json.dumps(measured), encoding="utf-8")
        return
    found: dict[int, dict[str, float]] = {}
    for count in sorted(options.trials):
        found[count] = apart(count, options.slots)
        figures = ", ".join(f"{name} {value:.1f}" for name, value in found[count].items())
        print(f"{count:>5} trials: {figures}", flush=True)
    cost = None
    if len(found) > 1:
        small, large = sorted(found)[-2:]
        cost = (found[large]["seconds"] - found[small]["seconds"]) / (large - small)
        print(f"a trial costs {cost:.3f} s (slope between {small} and {large} trials)")
    if options.json:
        options.json.write_text(
            json.dumps({"trials": found, "seconds_per_trial": cost, "slots": options.slots}),
            encoding="utf-8",
        )


if __name__ == "__main__":
    sys.exit(answer(main))
