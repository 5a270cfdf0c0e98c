"""Trials held in this process: what benchmarks.scale runs under Tune's controller in place of a
process per trial.

Owns the stand-in for Ray's actor manager. Decides nothing: Tune's controller, the searcher, the
scheduler and the coordinator are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.execution import tune_controller
from ray.tune.result import RESULT_DUPLICATE, SHOULD_CHECKPOINT

from benchmarks.virtual import Timeline
from jobs.pack.membership import AbortReason, RungResult
from jobs.workers.coordinator import Coordinator
from jobs.workers.packed_trial import POINTER, read_pointer

STALLED_SECONDS = 3600.0
"""Virtual time without any event after which nothing will come any more."""


class HeldTrial:
    """What the process of one trial would answer Tune: FunctionTrainable around
    jobs.workers.packed_trial.run_packed_trial.
    """

    def __init__(self, coordinator: Coordinator, config: dict[str, Any], storage: Any) -> None:
        self.coordinator = coordinator
        self.begin(config, storage)

    def begin(self, config: dict[str, Any], storage: Any) -> None:
        """Forget an earlier trial, whose actor this was."""
        self.config = {key: value for key, value in config.items() if not key.startswith("__")}
        self.folder, self.files = Path(storage.trial_fs_path), storage.storage_filesystem
        self.checkpoint: Any = None
        self.iterations, self.last = 0, {}
        self.reports: AsyncIterator[RungResult] | None = None

    async def train(self) -> dict[str, Any]:
        """The next report, as Trainable.train fills it up."""
        if self.reports is None:
            self.reports = self.attempt()
        answer = await anext(self.reports, None)
        if answer is None:
            return {RESULT_DUPLICATE: True, "done": True, SHOULD_CHECKPOINT: False}
        self.iterations += 1
        result = {
            "done": False,
            "training_iteration": self.iterations,
            **self.filled(),
            **answer.metrics,
            SHOULD_CHECKPOINT: True,
        }
        self.point_to(answer)
        result["checkpoint_path"] = answer.checkpoint
        self.last = result
        return pickle.loads(pickle.dumps(result))

    def filled(self) -> dict[str, Any]:
        """What Trainable adds to every report."""
        auto = {
            "date": time.strftime("%Y-%m-%d_%H-%M-%S"),
            "timestamp": int(time.time()),
            "pid": 1,
            "hostname": "held",
            "node_ip": "0.0.0.0",
        }
        times = {
            "time_this_iter_s": 1.0,
            "time_total_s": float(self.iterations),
            "time_since_restore": 1.0,
        }
        return {**auto, **times, "iterations_since_restore": self.iterations, "config": self.config}

    async def attempt(self) -> AsyncIterator[RungResult]:
        """The part of jobs.workers.packed_trial.run_packed_trial that a first start or a return
        from a pause goes through.
        """
        trial, index, coordinator = (
            self.config["assignment"].trial,
            self.config["index"],
            self.coordinator,
        )
        pointer = read_pointer(self.checkpoint)
        checkpoint, step = (pointer.path, pointer.step) if pointer else (None, 0)
        lease_id = await coordinator.join_pack(index, trial, checkpoint, step)
        try:
            while step < trial.train.steps:
                answer = await coordinator.train(index, lease_id)
                if isinstance(answer, AbortReason):
                    raise RuntimeError(str(answer))
                step = answer.metrics["step"]
                yield answer
        finally:
            await coordinator.leave_pack(index, lease_id)

    def point_to(self, answer: RungResult) -> None:
        """Keep the pointer to a pack's checkpoint where Tune keeps a trial's checkpoints."""
        target = self.folder / f"checkpoint_{answer.metrics['step']:06d}"
        target.mkdir(parents=True, exist_ok=True)
        pointer = {"path": answer.checkpoint, "step": answer.metrics["step"]}
        (target / POINTER).write_text(json.dumps(pointer), encoding="utf-8")
        self.checkpoint = Checkpoint(str(target), self.files)

    async def save(self) -> Any:
        """The checkpoint of the last report."""
        return pickle.loads(pickle.dumps(_TrainingResult(self.checkpoint, self.last)))

    async def restore(self, result: Any) -> None:
        """Go on from a checkpoint."""
        self.checkpoint, self.iterations = result.checkpoint, result.metrics["training_iteration"]

    async def reset(self, config: dict[str, Any], storage: Any) -> bool:
        """Become another trial."""
        await self.stop()
        self.begin(config, storage)
        return True

    async def stop(self) -> None:
        """Stand up and end."""
        if self.reports is not None:
            await self.reports.aclose()  # type: ignore[attr-defined]
            self.reports = None

    @property
    def get_auto_filled_metrics(self) -> Any:
        """Tune asks an actor for this; the answer is there at once."""

        class Method:
            """The actor's method."""

            @staticmethod
            def remote(**options: Any) -> dict[str, Any]:
                """What every result holds."""
                return {"pid": 1, "node_ip": "0.0.0.0"}

        return Method


class Task:
    """One call of a held trial."""

    def __init__(
        self,
        actor: TrackedActor,
        on_result: Callable[..., Any] | None,
        on_error: Callable[..., Any] | None,
    ) -> None:
        self.actor, self.on_result, self.on_error = actor, on_result, on_error
        self.dropped = False


class HeldActors:
    """Stands in for Ray's RayActorManager, as far as Tune's controller uses it. Without a process,
    an actor starts at once.
    """

    def __init__(self, coordinator: Coordinator, timeline: Timeline) -> None:
        self.coordinator, self.timeline = coordinator, timeline
        self.ready: deque[tuple[Task, Any, Exception | None]] = deque()
        self.tasks: dict[TrackedActor, set[Task]] = defaultdict(set)
        self._live_actors_to_ray_actors_resources: dict[TrackedActor, tuple[HeldTrial, None]] = {}
        self.starting: dict[TrackedActor, Task] = {}
        self.made, self.idle, self.num_events, self.num_pending_actors = 0, False, 0, 0
        self.background: set[asyncio.Task[None]] = set()

    @property
    def num_live_actors(self) -> int:
        """Actors that have not been stopped."""
        return len(self._live_actors_to_ray_actors_resources)

    num_total_actors = num_live_actors

    @property
    def num_actor_tasks(self) -> int:
        """Calls without an answer so far."""
        return sum(map(len, self.tasks.values()))

    def get_live_actors_resources(self) -> dict[str, float]:
        """Nothing: what is held takes none."""
        return {}

    def add_actor(
        self, cls: Any, kwargs: dict[str, Any], resource_request: Any, **callbacks: Any
    ) -> TrackedActor:
        """Start a trial."""
        self.made += 1
        actor = TrackedActor(self.made, **callbacks)
        self._live_actors_to_ray_actors_resources[actor] = (
            HeldTrial(self.coordinator, **pickle.loads(pickle.dumps(kwargs))),
            None,
        )
        self.starting[actor] = Task(actor, lambda tracked, _: self._started(tracked), None)
        self.ready.append((self.starting[actor], None, None))
        return actor

    def _started(self, actor: TrackedActor) -> None:
        del self.starting[actor]
        if actor._on_start:
            actor._on_start(actor)

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        """Whether it lives."""
        return tracked_actor in self._live_actors_to_ray_actors_resources

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        """Whether its process died: it has none."""
        return False

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        on_result: Callable[..., Any] | None = None,
        on_error: Callable[..., Any] | None = None,
        _return_future: bool = False,
    ) -> Any:
        """Call a held trial; the answer is an event."""
        trial = self._live_actors_to_ray_actors_resources[tracked_actor][0]
        task = Task(tracked_actor, on_result, on_error)
        self.tasks[tracked_actor].add(task)
        work = self.timeline.loop.create_task(
            self._carry_out(task, getattr(trial, method_name), args or (), kwargs or {})
        )
        self.background.add(work)
        work.add_done_callback(self.background.discard)
        return task if _return_future else None

    async def _carry_out(
        self, task: Task, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        try:
            self.ready.append((task, await method(*args, **kwargs), None))
        except RuntimeError as error:
            self.ready.append((task, None, error))

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        """Forget the calls that are under way."""
        for task in self.tasks.pop(tracked_actor, ()):
            task.dropped = True

    def remove_actor(
        self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Task | None = None
    ) -> bool:
        """Stop a trial; whether its `on_stop` will be called."""
        if tracked_actor not in self._live_actors_to_ray_actors_resources:
            return False
        if tracked_actor in self.starting:  # the real one calls nobody back either
            self.starting.pop(tracked_actor).dropped = True
            tracked_actor.set_on_stop(None)
        if kill or stop_future is None:
            self._gone(tracked_actor)
            return True
        self.tasks[tracked_actor].discard(stop_future)
        stop_future.on_result = lambda actor, _: self._gone(actor)
        return True

    def _gone(self, actor: TrackedActor) -> None:
        self.clear_actor_task_futures(actor)
        del self._live_actors_to_ray_actors_resources[actor]
        if actor._on_stop:
            actor._on_stop(actor)

    def next(self, timeout: float | None = None) -> bool:
        """Hand one event to the controller. Time passes only when the controller has been told
        twice that there is none.
        """
        self.timeline.settle()
        patience = self.timeline.now + STALLED_SECONDS
        while not self.ready and self.idle:
            self.timeline.settle(jump=True)
            if self.timeline.now > patience:
                raise RuntimeError(
                    f"stalled: no event for {STALLED_SECONDS:.0f} virtual seconds at "
                    f"{self.timeline.now:.0f}"
                )
        while self.ready:
            task, value, error = self.ready.popleft()
            self.tasks[task.actor].discard(task)
            if not task.dropped:
                self._hand_over(task, value, error)
                self.idle = False
                return True
        self.idle = True
        return False

    def _hand_over(self, task: Task, value: Any, error: Exception | None) -> None:
        self.num_events += 1
        callback = task.on_result if error is None else task.on_error
        if callback is not None:
            callback(task.actor, value if error is None else error)

    def cleanup(self) -> None:
        """Nothing is left behind by trials without processes."""


@contextlib.contextmanager
def held(coordinator: Coordinator, timeline: Timeline) -> Iterator[list[HeldActors]]:
    """While this lasts, the controllers that Tune makes hold their trials in this process; the list
    holds their managers.
    """
    before, made = tune_controller.RayActorManager, []  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]

    def make(resource_manager: Any) -> HeldActors:
        made.append(HeldActors(coordinator, timeline))
        return made[-1]

    tune_controller.RayActorManager = make  # type: ignore[misc, assignment]
    try:
        yield made
    finally:
        tune_controller.RayActorManager = before  # type: ignore[misc]
