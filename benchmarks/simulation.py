"""One simulated sweep of benchmarks.scale, in this process: what is real, what is held, and what is
measured of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.held import HeldActors, held
from benchmarks.stores import Memory, TimedStore, Timer, backlog
from benchmarks.virtual import STEP_SECONDS, Timeline, VirtualHandle, VirtualPack
from jobs.base_models import fetch
from jobs.pack.membership import PackMembership
from jobs.workers.coordinator import Coordinator
from orchestrator.config.compose import as_yaml, compose
from orchestrator.config.validation import build
from orchestrator.launch import ray_local
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan import planner as planning
from orchestrator.plan.rungs import survivors
from orchestrator.storage.journal import Journal
from orchestrator.sweep import runner
from orchestrator.sweep.callback import SweepCallback
from orchestrator.sweep.scheduler import HalvingScheduler
from orchestrator.sweep.searcher import TrialSearcher
from orchestrator.sweep.state import SweepState
from orchestrator.tracking import mlflow_store, provenance
from orchestrator.tracking.outbox import OutboxWorker

SLOTS = 8
REDUCTION = 3
SETTINGS = [
    "model=tiny",
    "data=icd10",
    "executor=pack",
    "sweep.name=scale",
    "sweep.scheduler=halving",
    f"sweep.reduction={REDUCTION}",
]
SETTINGS += [
    "sweep.space={lr: {path: optim.lr, type: loguniform, low: 0.0001, high: 0.01}}",
    "train.steps=18",
    "train.eval_every=2",
]
SETTINGS += ["sweep.metric=valid/loss"]
RUNGS = [2, 6, 18]
TELL_SECONDS = 10.0


def schedule_seconds(num_trials: int, gpus: int) -> float:
    """Virtual seconds that the sweep takes when no slot is ever idle without need: at each rung,
    one wave for each seatful of trials.
    """
    alive, before, total = survivors(num_trials, RUNGS, REDUCTION), [0, *RUNGS], 0.0
    for count, last, rung in zip(alive, before, RUNGS, strict=False):
        total += -(-count // (gpus * SLOTS)) * (rung - last) * STEP_SECONDS
    return total


@dataclass
class Timers:
    """What is timed of the driver."""

    suggest: Timer = field(default_factory=Timer)
    decide: Timer = field(default_factory=Timer)
    choose: Timer = field(default_factory=Timer)
    record: Timer = field(default_factory=Timer)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time the searcher, the scheduler and the recorder while this lasts."""
        watched: list[tuple[Any, str, Timer]] = [
            (TrialSearcher, "suggest", self.suggest),
            (HalvingScheduler, "choose_trial_to_run", self.choose),
        ]
        watched += [
            (HalvingScheduler, name, self.decide)
            for name in ("on_trial_result", "on_trial_complete")
        ]
        watched += [
            (SweepCallback, name, self.record)
            for name in ("on_trial_start", "on_trial_result", "on_trial_complete", "on_step_end")
        ]
        before = [(kind, name, getattr(kind, name)) for kind, name, _ in watched]
        for kind, name, timer in watched:
            setattr(kind, name, timer.around(getattr(kind, name)))
        try:
            yield
        finally:
            for kind, name, function in before:
                setattr(kind, name, function)

    def figures(self) -> dict[str, float]:
        """Microseconds of the driver per call."""
        return {
            f"{name}_us": 1e6 * timer.cpu_seconds / max(1, timer.calls)
            for name, timer in vars(self).items()
        }


@dataclass
class Simulation:
    """One sweep of `num_trials` trials on `gpus` GPUs, kept in `folder`."""

    num_trials: int
    gpus: int
    folder: Path
    patience_seconds: float
    """How long the tracking writer may take after the sweep's end."""
    timers: Timers = field(default_factory=Timers)
    timeline: Timeline = field(default_factory=Timeline)
    packs: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "sweep")
        self.journal.folder.mkdir(parents=True)
        self.config_text = ""

    def run(self) -> dict[str, Any]:
        """The sweep to its end, and what was measured."""
        began = time.perf_counter()
        plan = self.plan()
        planned = time.perf_counter() - began
        uri = f"sqlite:///{self.folder}/mlflow.db"
        store: Any = TimedStore(mlflow_store.connect(uri, "scale", self.folder / "artifacts"))
        self.journal.append(
            "sweep", name=plan.name, params={}, tags={}, config=self.config_text, datasets=[]
        )
        with (
            ray_local.local(plan.resources),
            ProgressDisplay(
                self.num_trials, plan.config.train.steps, plan.config.sweep.metric
            ) as screen,
        ):
            screen.line = lambda text, always=False: None
            return {
                "trials": self.num_trials,
                "gpus": self.gpus,
                "plan_seconds": planned,
                **self.sweep(plan, screen, store),
            }

    def plan(self) -> Any:
        """The plan for so many GPUs, whatever this machine has."""
        raw = compose(
            [*SETTINGS, f"sweep.num_trials={self.num_trials}", f"storage={self.folder}"], None
        )
        self.config_text, config = as_yaml(raw), build(raw)
        fetch.prepare(config.model)
        plan = planning.make(config)
        assert plan.rungs == RUNGS
        resources = dataclasses.replace(
            plan.resources, concurrent=min(self.num_trials, self.gpus * SLOTS), packs=self.gpus
        )
        return dataclasses.replace(plan, resources=resources)

    def sweep(self, plan: Any, screen: ProgressDisplay, store: Any) -> dict[str, Any]:
        """Once Ray runs."""
        coordinator = Coordinator(
            PackMembership(self.gpus, SLOTS, self.num_trials, clock=self.timeline.clock)
        )
        common = {"tags": provenance.tags(plan.config), "config": self.config_text}
        sweep_state = SweepState(plan, plan.base, self.journal, screen, common)
        sweep_state.coordinator = handle = VirtualHandle(coordinator, self.timeline)

        def start(sweep_state: SweepState) -> list[threading.Thread]:
            packs = [
                VirtualPack(coordinator, number, self.journal.folder / "train")
                for number in range(self.gpus)
            ]
            self.packs = [self.timeline.loop.create_task(pack.serve()) for pack in packs]
            return []

        memory, writer = Memory(), OutboxWorker(lambda: store, self.journal.folder)
        began, cpu = time.perf_counter(), time.thread_time()
        writer.start()
        with (
            self.timers.running(),
            held(coordinator, self.timeline) as managers,
            self.told(sweep_state, store),
        ):
            runner.run(sweep_state, start)
        swept, used = time.perf_counter() - began, time.thread_time() - cpu
        behind, calls = backlog(self.journal.folder), store.timer.calls
        left = writer.close(self.patience_seconds)
        lag = time.perf_counter() - began - swept
        memory.close()
        self.timeline.finish(self.send_home())
        self.timeline.close()
        written = {
            "behind_events": behind,
            "left_events": left,
            "lag_seconds": lag,
            "calls_during_sweep": calls,
        }
        return {
            **self.outcome(sweep_state, handle, managers[0], swept, used),
            **self.timers.figures(),
            "start_mb": memory.before / 1e6,
            "peak_mb": memory.peak / 1e6,
            "sqlite": {
                **written,
                "calls": store.timer.calls,
                "calls_per_second": store.timer.calls / store.timer.seconds,
            },
        }

    def outcome(
        self,
        sweep_state: SweepState,
        handle: VirtualHandle,
        actors: HeldActors,
        swept: float,
        used: float,
    ) -> dict[str, Any]:
        """What the sweep came to, and what it took of the driver; what the simulation itself takes
        is left out of that.
        """
        states, driver = (
            [record.state for record in sweep_state.records.values()],
            used - self.timeline.cpu_seconds,
        )
        return {
            "finished": states.count("finished"),
            "stopped": states.count("stopped"),
            "virtual_seconds": round(self.timeline.now, 3),
            "schedule_seconds": schedule_seconds(self.num_trials, self.gpus),
            "sweep_seconds": swept,
            "driver_cpu_seconds": driver,
            "simulation_cpu_seconds": self.timeline.cpu_seconds,
            "trials_per_second": self.num_trials / driver,
            "events": actors.num_events,
            "event_ms": 1000 * driver / actors.num_events,
            "roster_calls": sum(handle.calls.values()),
            "journal_mb": self.journal.file.stat().st_size / 1e6,
            "journal_events": sum(1 for _ in self.journal.events()),
        }

    async def send_home(self) -> None:
        """Wait for the packs, which have heard that the sweep is over."""
        await asyncio.gather(*self.packs)

    @contextlib.contextmanager
    def told(self, sweep_state: SweepState, store: TimedStore) -> Iterator[None]:
        """Say every few seconds how far the sweep is."""
        over, began = threading.Event(), time.perf_counter()

        def tell() -> None:
            while not over.wait(TELL_SECONDS):
                done = f"{len(sweep_state.records):,} begun, {len(sweep_state.ended):,} ended"
                clocks = f"{time.perf_counter() - began:.0f} s, virtual {self.timeline.now:,.0f} s"
                print(
                    f"{self.num_trials:,} trials: {done}; {clocks}; {store.timer.calls:,} store "
                    "calls",
                    file=sys.stderr,
                    flush=True,
                )

        threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            over.set()
