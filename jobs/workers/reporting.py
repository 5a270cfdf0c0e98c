"""Metrics and deaths, told to the coordinator."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import ray
import ray.train
from ray.train import UserCallback

from jobs.config import WorkerSpec
from jobs.workers.coordinator import CoordinatorHandle, find_coordinator
from jobs.workers.messages import LoggedStep, Note, StepMetrics

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.context import TrainRunContext

POST_SECONDS = 1.0
ROOM_SECONDS = 0.1
MOST_WAITING = 10_000
"""Steps that may wait in a worker before it waits for the driver."""


class NoteDeaths(UserCallback):
    """Tells the coordinator when a worker has died, and when it did for lack of memory. Runs in the
    controller's process.
    """

    def __init__(self, sweep: str, trial: int) -> None:
        self.sweep = sweep
        self.trial = trial

    def after_exception(
        self, run_context: TrainRunContext, worker_exceptions: dict[int, Exception]
    ) -> None:
        """Called before a failed worker group is restarted."""
        coordinator = find_coordinator(self.sweep)
        why = reason(next(iter(worker_exceptions.values())))
        note = Note(
            f"{why}; goes on from the last checkpoint", self.trial if self.trial > 0 else None
        )
        coordinator.post.remote(note)
        if any(is_ended_for_memory(error) for error in worker_exceptions.values()):
            ray.get(coordinator.shrink.remote(self.trial))


def use_own_gpu(assignment: WorkerSpec) -> None:
    """Make the GPU that Ray Train gave this worker the present one: the workers of a machine all
    see all of its GPUs.
    """
    if assignment.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())


class MetricsBuffer:
    """Step metrics for the driver, collected for a second at a time so that nothing waits for them.
    None is dropped: where the driver does not take them fast enough, they wait here, and at last
    the training waits.
    """

    def __init__(self, coordinator: CoordinatorHandle, trial: int) -> None:
        self.coordinator = coordinator
        self.trial = trial
        self.waiting: list[LoggedStep] = []
        self.sent = time.monotonic()
        self.room: ray.ObjectRef[bool] | None = None
        """The coordinator's answer whether it takes more."""
        self.asked: ray.ObjectRef[bool] | None = None
        """The coordinator's answer whether the sweep pauses."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Note one optimizer step."""
        self.waiting.append(LoggedStep(int(time.time() * 1000), step, metrics))
        if time.monotonic() - self.sent > POST_SECONDS:
            self.flush(now=len(self.waiting) >= MOST_WAITING)

    def flush(self, now: bool = False) -> None:
        """Send what waits, if the coordinator has room for it; with `now` wait until it has."""
        self.sent = time.monotonic()
        if not self.waiting:
            return
        while self.room is not None:
            if not now and not ray.wait([self.room], timeout=0)[0]:
                return
            if ray.get(self.room):
                break
            self.room = self.coordinator.has_room.remote()
            if not now:
                return
            time.sleep(ROOM_SECONDS)
        self.room = self.coordinator.post.remote(StepMetrics(self.trial, self.waiting))
        self.waiting = []

    def say(self, text: str) -> None:
        """Send one line for the user."""
        self.coordinator.post.remote(Note(text, self.trial))

    def resting(self) -> bool:
        """Whether the coordinator's latest answer says that the sweep pauses; no step waits."""
        if self.asked is None:
            self.asked = self.coordinator.resting.remote()
            return False
        if not ray.wait([self.asked], timeout=0)[0]:
            return False
        answer = ray.get(self.asked)
        self.asked = None
        return answer


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line, without what Ray wraps around it."""
    error = innermost(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    if "startup timed out" in str(error):
        return "its workers could not be placed: other work holds the CPU cores or GPUs"
    return death(str(error)) if is_loss(error) else lines[-1]


def innermost(error: BaseException) -> BaseException:
    """What has happened, without what Ray and Ray Train wrap around it."""
    inner = (
        next(iter(getattr(error, "worker_failures", {}).values()), None)
        or getattr(error, "health_check_failure", None)
        or getattr(error, "cause", None)
    )
    return error if inner is None or inner is error else innermost(inner)


def is_loss(error: BaseException) -> bool:
    """Whether an error says that a process has died, or lost its machine."""
    return type(innermost(error)).__name__.endswith(
        (
            "ActorDiedError",
            "ActorError",
            "ActorUnavailableError",
            "WorkerCrashedError",
            "NodeDiedError",
            "PreemptionError",
        )
    )


def is_ended_for_memory(error: BaseException) -> bool:
    """Whether an error says that the memory was too small, be it Ray that ended the process."""
    inner = innermost(error)
    return "OutOfMemory" in f"{type(inner).__name__} {inner}" or "ended by Ray" in reason(inner)


def lacks_memory(why: str) -> bool:
    """Whether the reason of an end is that the memory was too small."""
    return re.search(r"out of memory|lack of memory|OutOfMemory", why) is not None


def death(message: str) -> str:
    """One sentence from all that Ray tells of a process that has died: which, where and, as far as
    Ray knows, of what.
    """
    pid = re.search(r"\bpid[:=] ?(\d+)", message)
    node = re.search(r"\bip[:=] ?([\w.:-]+[\w])", message)
    facts = [] if pid is None else [f"pid {pid[1]}"]
    if node is not None and pid is not None and not node[1].startswith("127."):
        facts.append(f"on {node[1]}")
    who = f"a worker process ({', '.join(facts)})" if facts else "a worker process"
    if (
        re.search(r"out.of.memory|OutOfMemory|memory pressure|low on memory", message)
        and "potential root causes" not in message
    ):
        return f"{who} was ended by Ray for lack of memory on its machine"
    if re.search(r"node (has )?died|node was terminated|node failure", message):
        return f"{who} was lost with its machine"
    if "INTENDED" in message or "exit code" in message.lower():
        return f"{who} has ended by itself or was told to end"
    return (
        f"{who} was killed: by someone, by the system for lack of memory, or by a crash of its own"
    )
