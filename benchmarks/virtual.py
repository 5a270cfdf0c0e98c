"""Virtual time for benchmarks.scale: the clock, the coordinator held in this process, and packs
whose training takes no work.

Time stands still while anything is done and jumps to the next event when all wait. What travels
between processes is pickled here too.
"""

from __future__ import annotations

import asyncio
import pickle
import selectors
import time
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import ray

from jobs.config import Train
from jobs.pack.membership import SavedCheckpoint, StepReport
from jobs.workers.coordinator import Coordinator
from jobs.workers.messages import LoggedStep, StepMetrics

STEP_SECONDS = 10.0
"""Virtual time of one optimizer step of a pack."""
METRICS = (
    "train/loss",
    "train/learning_rate",
    "train/gradient_norm",
    "train/tokens_per_second",
    "train/examples_per_second",
)


class Jumps(selectors.DefaultSelector):
    """Where an event loop would sleep, the clock jumps, or the loop stops when it may not."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self.timeline = timeline

    def select(self, timeout: float | None = None) -> Any:
        """See selectors; never blocks."""
        if timeout is None or timeout > 0:
            if timeout is None or not self.timeline.may_jump:
                self.timeline.loop.stop()
            else:
                self.timeline.now, self.timeline.may_jump = self.timeline.now + timeout, False
        return super().select(0)


class Timeline:
    """An event loop in virtual time. Work takes none of it; it passes while everything waits."""

    def __init__(self) -> None:
        self.now, self.may_jump, self.cpu_seconds = 0.0, False, 0.0
        self.loop = asyncio.SelectorEventLoop(Jumps(self))
        self.loop.time = self.clock  # type: ignore[method-assign]

    def clock(self) -> float:
        """Virtual seconds since the start."""
        return self.now

    def settle(self, jump: bool = False) -> None:
        """Do all that can be done now; with `jump`, go on to the next moment at which there is
        something to do.
        """
        began, self.may_jump = time.thread_time(), jump
        self.loop.run_forever()
        self.cpu_seconds += time.thread_time() - began

    def finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of work that needs no time."""
        began, self.may_jump = time.thread_time(), False
        try:
            return self.loop.run_until_complete(work)
        finally:
            self.cpu_seconds += time.thread_time() - began

    def close(self) -> None:
        """End what still waits."""
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.settle()
        self.loop.close()


class VirtualHandle:
    """Looks like the handle of the coordinator's actor; answers are real references, so that
    `ray.get` takes them.
    """

    def __init__(self, coordinator: Coordinator, timeline: Timeline) -> None:
        self._roster, self._timeline = coordinator, timeline
        self._nothing = ray.put(None)
        self.calls: dict[str, int] = defaultdict(int)

    def __getattr__(self, name: str) -> Any:
        handle, method = self, getattr(self._roster, name)

        class Method:
            """One method of the actor."""

            @staticmethod
            def remote(*arguments: Any) -> Any:
                """Carried out at once."""
                handle.calls[name] += 1
                answer = handle._timeline.finish(method(*pickle.loads(pickle.dumps(arguments))))
                return handle._nothing if answer is None else ray.put(answer)

        return Method


def next_rung(step: int, train: Train) -> int:
    """See jobs.pack.serve.next_rung, whose import would bring torch into the measured process."""
    return min((step // train.eval_every + 1) * train.eval_every, train.steps)


def loss_of(index: int, step: int) -> float:
    """A loss that falls with the steps and ranks the trials in a mixed order."""
    return 1.0 + (index * 7919 % 10007) / 10007 + 1.0 / step


class VirtualPack:
    """A pack's worker that trains nothing: jobs.pack.serve in virtual time."""

    def __init__(self, coordinator: Coordinator, number: int, folder_of_checkpoints: Path) -> None:
        self.coordinator, self.number, self.folder_of_checkpoints = (
            coordinator,
            number,
            folder_of_checkpoints,
        )
        self.seated: dict[int, int] = {}
        self.steps: dict[int, int] = {}

    async def serve(self) -> None:
        """Train until the sweep is over."""
        while (members := await self.coordinator.members(self.number)) is not None:
            for place in members:
                if self.seated.get(place.index) != place.lease_id:
                    self.steps[place.index] = place.step
            self.seated = {place.index: place.lease_id for place in members}
            going = {
                place.index: next_rung(self.steps[place.index], place.trial.train)
                for place in members
                if place.may_train
            }
            if not going:
                await asyncio.sleep(0.05)
                continue
            hop = min(rung - self.steps[index] for index, rung in going.items())
            await asyncio.sleep(hop * STEP_SECONDS)
            await self.tell(list(going), hop)
            due = [index for index, rung in going.items() if self.steps[index] >= rung]
            await self.coordinator.publish(self.boundary(due), dict(self.seated))

    async def tell(self, going: list[int], hop: int) -> None:
        """Every trial's metrics of every step, as a worker posts them."""
        for index in going:
            first, moment = self.steps[index] + 1, int(time.time() * 1000)
            steps = [
                LoggedStep(moment, step, dict.fromkeys(METRICS, loss_of(index, step)))
                for step in range(first, first + hop)
            ]
            await self.coordinator.post(StepMetrics(index, steps))
            self.steps[index] += hop

    def boundary(self, due: list[int]) -> StepReport:
        """A checkpoint and a report for each trial that has reached its rung."""
        snapshots, reports = {}, {}
        for index in due:
            step = self.steps[index]
            folder = self.folder_of_checkpoints / f"trial-{index:03d}" / f"step-{step:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "state.json").touch()
            loss = loss_of(index, step)
            scores = {
                "valid/loss": loss,
                "valid/exact_match": 1 / loss,
                "data/drawn_train": float(step),
            }
            snapshots[index] = SavedCheckpoint(str(folder), step)
            reports[index] = {"step": step, **dict.fromkeys(METRICS, loss), **scores}
        return StepReport(snapshots, reports, {})
