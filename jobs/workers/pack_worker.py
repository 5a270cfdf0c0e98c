"""A pack's worker processes: binds jobs/pack to Ray Train and to the coordinator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import ray
import ray.train
from ray.exceptions import RayError

from jobs.base_models import fetch
from jobs.config import WorkerSpec
from jobs.files.checkpoints import CheckpointStore
from jobs.files.manifest import Damaged
from jobs.files.storage_faults import told
from jobs.pack.membership import AbortReason, Member, StepReport
from jobs.workers.coordinator import CoordinatorHandle, find_coordinator
from jobs.workers.messages import Note, WorkerSettings
from jobs.workers.ray_train import run_job
from jobs.workers.reporting import (
    MetricsBuffer,
    NoteDeaths,
    is_loss,
    lacks_memory,
    reason,
    use_own_gpu,
)
from jobs.workers.task_checkpoints import TaskCheckpoints

if TYPE_CHECKING:
    from jobs.pack.engine import Pack
    from jobs.pack.loop import WatchedTasks
    from jobs.training.distributed import World

Answer = TypeVar("Answer")
LOOK_SECONDS = 0.5


def run(
    assignment: WorkerSpec, pack_index: int, tasks: dict[int, WorkerSpec] | None = None
) -> None:
    """Run pack `number` as a Ray Train job until the sweep is over. `assignment` is that of any of
    its trials; in a fleet `tasks` has one of each task.

    Whatever ends it early is told to the coordinator, and so to every trial that waits.
    """
    coordinator = find_coordinator(assignment.sweep)
    try:
        run_job(
            work,
            {"assignment": assignment, "pack": pack_index, "tasks": tasks or {}},
            name=f"pack-{pack_index}",
            callbacks=[NoteDeaths(assignment.sweep, place(pack_index))],
        )
    except Exception as error:  # noqa: BLE001  # whatever it is, the trials must hear of it
        if not ray.is_initialized():
            return  # the sweep is over already
        with contextlib.suppress(
            RayError
        ):  # the coordinator itself is lost: whoever asks it hears that
            why = reason(error)
            key = place(pack_index)
            if ray.get(coordinator.times_shrunk.remote(key)) or lacks_memory(why):
                abort_reason = AbortReason(crowded=why)
            else:
                abort_reason = AbortReason(lost=why) if is_loss(error) else AbortReason(failure=why)
            ray.get(coordinator.abort.remote(abort_reason))


def place(pack_index: int) -> int:
    """Where the coordinator keeps what it knows of a pack's workers."""
    return -1 - pack_index


def work(settings: WorkerSettings) -> None:
    """One worker of a pack."""
    import torch

    from jobs.pack.loop import serve
    from jobs.training.distributed import World

    assignment = settings["assignment"]
    pack_index = settings.get("pack", 0)
    tasks = settings.get("tasks") or {0: assignment}
    context = ray.train.get_context()
    torch.set_num_threads(max(1, assignment.cpus))
    use_own_gpu(assignment)
    world = World(context.get_world_rank(), context.get_world_size())
    coordinator = find_coordinator(assignment.sweep)
    try:
        if (
            ray.get(coordinator.is_closed.remote())
            or ray.get(coordinator.resting.remote())
            or ray.get(coordinator.abort_reason.remote())
        ):
            return
        pack = open_pack(assignment, pack_index, world, coordinator)
        if pack is not None:
            pack.scorings = {task: spec.scoring for task, spec in tasks.items()}
            stores = {task: checkpoint_store_of(spec, pack.say) for task, spec in tasks.items()}
            client = RankZeroClient(coordinator, pack_index, world)
            serve(pack, client, TaskCheckpoints(stores), watched_trials(tasks))
    except (ValueError, MemoryError, OSError, Damaged) as error:
        if not (world.size > 1 and isinstance(error, MemoryError)):
            ray.get(coordinator.abort.remote(abort_reason_of(error, assignment.storage)))
        if world.size > 1 and not isinstance(error, ValueError):
            # this worker alone has failed; returning would leave the others waiting for its
            # gradients
            raise
    finally:
        if world.rank == 0:
            coordinator.rested.remote(
                place(pack_index), {}
            )  # whatever the end was: nobody waits for this pack when the sweep pauses


def abort_reason_of(error: Exception, storage: str) -> AbortReason:
    """The reason that the coordinator hears for an error that ends all training."""
    if isinstance(error, Damaged):
        return AbortReason(damaged=(error.place, error.why))
    if isinstance(error, OSError):
        return AbortReason(fault=told(error, storage))
    if isinstance(error, MemoryError):
        return AbortReason(crowded=str(error) or "out of memory")
    return AbortReason(failure=str(error) or "out of memory")


def watched_trials(tasks: dict[int, WorkerSpec]) -> WatchedTasks:
    """Which trials their losses may end, by task."""
    from jobs.pack.loop import WatchedTasks, WatchedTrials

    return WatchedTasks(
        {
            task: WatchedTrials(spec.num_trials, spec.watched)
            for task, spec in tasks.items()
            if spec.watched is not None
        }
    )


def checkpoint_store_of(assignment: WorkerSpec, say: Callable[[str], None]) -> CheckpointStore:
    """Where checkpoints are kept."""
    return CheckpointStore(
        assignment.storage, assignment.metric, assignment.maximise, say, assignment.num_trials
    )


def open_pack(
    assignment: WorkerSpec, pack_index: int, world: World, coordinator: CoordinatorHandle
) -> Pack | None:
    """The engine, checked against the plain model; None when the plain executor must do the work,
    which the coordinator is told.
    """
    from jobs.pack.engine import NotPackable, Pack
    from jobs.pack.opening import enable_packing

    group = ray.util.get_current_placement_group()
    assert group is not None  # a worker of Ray Train has one
    times_shrunk: int = ray.get(coordinator.sit.remote(place(pack_index), group.id.hex()))
    trial = assignment.trial
    budget = max(trial.train.pass_tokens(assignment.gpus > 0) >> times_shrunk, 16)
    trial = replace(trial, train=replace(trial.train, tokens_per_step=budget))

    def say(text: str) -> None:
        coordinator.post.remote(Note(text))

    if times_shrunk and world.rank == 0:
        say(
            f"out of memory: the pack goes on with train.tokens_per_step={budget}, same effective "
            "batch"
        )
    try:
        pack = Pack(fetch.at_hand(assignment.base, trial.model), trial, world, say)
        pack.hidden_cache.shrink(times_shrunk)
        problem = enable_packing(pack, trial)
    except NotPackable as error:
        pack = None
        problem = str(error)
    if problem is not None:
        ray.get(coordinator.abort.remote(AbortReason(pack_rejection=problem)))
        return None
    return pack


class RankZeroClient:
    """Worker 0 asks the coordinator; the others hear it from worker 0."""

    def __init__(self, coordinator: CoordinatorHandle, pack_index: int, world: World) -> None:
        self.coordinator = coordinator
        self.pack_index = pack_index
        self.world = world
        self.asked: ray.ObjectRef[dict[int, int]] | None = None
        self.buffers: dict[int, MetricsBuffer] = {}

    def members(self) -> list[Member] | None:
        """See loop.CoordinatorClient."""
        self.asked = None
        return self.share(lambda: ray.get(self.coordinator.members.remote(self.pack_index)))

    def resting(self) -> bool:
        """See loop.CoordinatorClient."""
        return bool(self.share(lambda: ray.get(self.coordinator.resting.remote())))

    def left(self, lease_ids: dict[int, int]) -> bool:
        """See loop.CoordinatorClient. No step waits for the coordinator's answer."""
        return bool(self.share(lambda: self.look(lease_ids)))

    def look(self, lease_ids: dict[int, int]) -> bool:
        """Whether the latest answer of the coordinator shows that someone has left."""
        if self.asked is None:
            self.asked = self.coordinator.lease_ids.remote(self.pack_index)
            return False
        ready, _ = ray.wait([self.asked], timeout=0)
        if not ready:
            return False
        now = ray.get(self.asked)
        self.asked = None
        return any(now.get(index) != lease_id for index, lease_id in lease_ids.items())

    def publish(self, boundary: StepReport, lease_ids: dict[int, int]) -> None:
        """See loop.CoordinatorClient."""
        if self.world.rank == 0:
            for buffer in self.buffers.values():
                buffer.flush(now=True)
            ray.get(self.coordinator.publish.remote(boundary, lease_ids))

    def tell(self, steps: dict[int, tuple[int, dict[str, float]]]) -> None:
        """See loop.CoordinatorClient."""
        if self.world.rank == 0:
            for index, (step, metrics) in steps.items():
                self.buffers.setdefault(index, MetricsBuffer(self.coordinator, index)).step(
                    step, metrics
                )

    def share(self, ask: Callable[[], Answer]) -> Answer:
        """Worker 0's answer, for all workers."""
        if self.world.size == 1:
            return ask()
        import torch

        box = [ask() if self.world.rank == 0 else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return cast("Answer", box[0])
