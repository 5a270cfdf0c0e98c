"""One process of a trial: binds the training loop to Ray Train's reports and checkpoints. With
coordinator.py the only Ray import in jobs/.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray
import ray.train
from ray.tune.integration.ray_train import TuneReportCallback

from jobs.base_models import fetch
from jobs.config import WorkerSpec
from jobs.files.checkpoints import CheckpointStore, fetched, reports_in, why_unreadable
from jobs.files.json_types import JsonObject
from jobs.files.manifest import Snapshot
from jobs.files.storage_faults import told
from jobs.pack.membership import AbortReason, SavedCheckpoint
from jobs.workers.coordinator import find_coordinator
from jobs.workers.messages import TrialConfig, WorkerEnd, WorkerSettings
from jobs.workers.ray_train import run_job
from jobs.workers.reporting import (
    MetricsBuffer,
    NoteDeaths,
    is_loss,
    lacks_memory,
    reason,
    use_own_gpu,
)

if TYPE_CHECKING:
    from jobs.training.distributed import World


def train(assignment: WorkerSpec, recorded_step: int) -> WorkerEnd:
    """Run one trial as a Ray Train job and return when it has ended, with how. Called inside a Tune
    trial, which receives its reports; those up to `recorded_step` it has.

    A second call goes on from the first one's last whole checkpoint. Raises RuntimeError with the
    cause when the trial failed for a reason that another attempt would not mend.
    """
    trial = assignment.trial
    result = run_job(
        work,
        {"assignment": assignment, "recorded_step": recorded_step},
        name=f"trial-{trial.index:03d}",
        callbacks=[TuneReportCallback(), NoteDeaths(assignment.sweep, trial.index)],
    )
    ended: WorkerEnd = result.return_value or WorkerEnd()
    if ended.failure is not None:
        raise RuntimeError(ended.failure)
    return ended


def work(settings: WorkerSettings) -> WorkerEnd:
    """The training loop of one worker. A failure that would come again is returned rather than
    raised, so that nobody retries it.
    """
    import torch

    from jobs.training.distributed import World
    from jobs.training.finetune import Hooks, finetune

    assignment = settings["assignment"]
    trial = assignment.trial
    context = ray.train.get_context()
    torch.set_num_threads(max(1, assignment.cpus))
    use_own_gpu(assignment)
    coordinator = find_coordinator(assignment.sweep)
    group = ray.util.get_current_placement_group()
    assert group is not None  # a worker of Ray Train has one
    times_shrunk: int = ray.get(coordinator.sit.remote(trial.index, group.id.hex()))
    budget = max(trial.train.pass_tokens() >> times_shrunk, 16)
    trial = replace(trial, train=replace(trial.train, tokens_per_step=budget))
    metrics_buffer = MetricsBuffer(coordinator, trial.index)
    if times_shrunk and context.get_world_rank() == 0:
        metrics_buffer.say(
            f"out of memory: goes on with train.tokens_per_step={budget}, same effective batch"
        )
    world = World(context.get_world_rank(), context.get_world_size())
    checkpoints = CheckpointStore(
        assignment.storage,
        assignment.metric,
        assignment.maximise,
        metrics_buffer.say,
        assignment.num_trials,
    )
    reports: list[JsonObject] = []
    hooks = Hooks(
        rung(world.rank, metrics_buffer, checkpoints, reports),
        metrics_buffer.step,
        metrics_buffer.say,
        resting(world, metrics_buffer),
        rest(world.rank, metrics_buffer, checkpoints, reports),
    )
    try:
        base = fetch.at_hand(assignment.base, trial.model)
        ray.get(coordinator.begin.remote(trial.index))
        checkpoint = taken_up(
            world, metrics_buffer, checkpoints, reports, settings.get("recorded_step", 0)
        )
        finetune(trial, base, hooks, world, checkpoint, assignment.scoring)
    except (FloatingPointError, ValueError, MemoryError, OSError) as error:
        if world.size > 1 and isinstance(error, OSError):
            ray.get(coordinator.abort.remote(AbortReason(fault=told(error, assignment.storage))))
        if world.size > 1 and isinstance(error, MemoryError | OSError):
            # this worker alone has failed; returning would leave the others waiting for its
            # gradients
            raise
        if isinstance(error, OSError):
            return WorkerEnd(fault=told(error, assignment.storage))
        if isinstance(error, MemoryError) and not assignment.alone:
            return WorkerEnd(crowded=str(error) or "out of memory")
        return WorkerEnd(failure=str(error))
    finally:
        if world.rank == 0:
            coordinator.rested.remote(
                trial.index, {}
            )  # whatever the end was: nobody waits for this trial when the sweep pauses
    return WorkerEnd(rested=bool(ray.get(coordinator.resting.remote())))


def taken_up(
    world: World,
    metrics_buffer: MetricsBuffer,
    checkpoints: CheckpointStore,
    reports: list[JsonObject],
    recorded_step: int,
) -> Path | None:
    """The checkpoint to go on from, the same for all workers. What it says of its rung, and of
    earlier ones after `recorded_step`, is reported again: the process that wrote it may have ended
    before anyone heard of it. `reports` is filled with all that it says.
    """
    newest = [checkpoints.newest(metrics_buffer.trial) if world.rank == 0 else None]
    if world.size > 1:
        import torch

        steps = [None if newest[0] is None else newest[0][0]]
        torch.distributed.broadcast_object_list(steps, src=0)
        if world.rank > 0 and steps[0] is not None:
            newest = [(steps[0], fetched(checkpoints.at(metrics_buffer.trial, steps[0])))]
    if newest[0] is None:
        return None
    step, folder = newest[0]
    reports += reports_in(checkpoints.at(metrics_buffer.trial, step))
    for report in reports:
        reported = int(report["step"])
        if reported > recorded_step or reported == step:
            ray.train.report(
                report | {"checkpoint_path": checkpoints.at(metrics_buffer.trial, reported)}
            )
    return folder


def rung(
    rank: int,
    metrics_buffer: MetricsBuffer,
    checkpoints: CheckpointStore,
    reports: list[JsonObject],
) -> Callable[[dict[str, float], Snapshot], None]:
    """What happens after an evaluation: worker 0 keeps a checkpoint, and every worker reports."""

    def report(metrics: dict[str, float], save: Snapshot) -> None:
        if rank > 0:
            ray.train.report(metrics)
            return
        metrics_buffer.flush(now=True)
        location = checkpoints.put(
            metrics_buffer.trial, int(metrics["step"]), save, metrics, reports
        )
        reports.append(dict(metrics))
        ray.train.report(metrics | {"checkpoint_path": location})

    return report


def resting(world: World, metrics_buffer: MetricsBuffer) -> Callable[[], bool]:
    """Whether the sweep pauses before this step, which all workers must see alike."""

    def ask() -> bool:
        rank_zero_rests = world.rank == 0 and metrics_buffer.resting()
        if world.size == 1:
            return rank_zero_rests
        import torch

        from jobs.model.loading import pick_device

        return bool(world.add(torch.tensor([float(rank_zero_rests)], device=pick_device())) > 0)

    return ask


def rest(
    rank: int,
    metrics_buffer: MetricsBuffer,
    checkpoints: CheckpointStore,
    reports: list[JsonObject],
) -> Callable[[int, Snapshot], None]:
    """What happens when the sweep pauses: worker 0 keeps what was learned since the last rung, with
    the `reports` of those before it: the driver may not have all of them.
    """

    def keep(step: int, save: Snapshot) -> None:
        if rank > 0:
            return
        metrics_buffer.flush(now=True)
        left: dict[int, SavedCheckpoint] = {}
        if step > 0:
            is_saved = (
                step in checkpoints.steps(metrics_buffer.trial)
                and why_unreadable(checkpoints.at(metrics_buffer.trial, step)) is None
            )
            location = checkpoints.at(metrics_buffer.trial, step)
            if not is_saved:
                location = checkpoints.put(metrics_buffer.trial, step, save, earlier=reports)
            left[metrics_buffer.trial] = SavedCheckpoint(location, step)
        ray.get(metrics_buffer.coordinator.rested.remote(metrics_buffer.trial, left))

    return keep


def run_plain_trial(config: TrialConfig) -> None:
    """A Tune trial: say again what is already known of it, then train on from there."""
    from ray import tune

    assignment = config["assignment"]
    recorded = config.get("recorded", [])
    failed = config.get("failed")
    coordinator = find_coordinator(assignment.sweep)
    for report in recorded:
        tune.report(dict(report))
    if failed is not None:
        ray.get(coordinator.fail.remote(config["index"], failed))
        raise RuntimeError(failed)
    stopped = config.get("stopped")
    if stopped is not None:
        ray.get(coordinator.stop.remote(config["index"], stopped))
        return
    recorded_step = max((int(report["step"]) for report in recorded), default=0)
    if recorded_step < assignment.trial.train.steps:
        try:
            ended = train(assignment, recorded_step)
        except Exception as error:
            times_shrunk: int = ray.get(coordinator.times_shrunk.remote(config["index"]))
            crowded = lacks_memory(reason(error)) or times_shrunk > 0
            if assignment.alone if crowded else not is_loss(error):
                ray.get(coordinator.fail.remote(config["index"], reason(error)))
                raise
            ended = WorkerEnd(lost=reason(error))
            if crowded:
                ended = WorkerEnd(crowded=reason(error))
        if ended.fault is not None or ended.lost is not None or ended.crowded is not None:
            abort_reason = AbortReason(fault=ended.fault, lost=ended.lost, crowded=ended.crowded)
            ray.get(coordinator.abort.remote(abort_reason))
        while ended != WorkerEnd():
            time.sleep(1)  # until the driver ends this trial with all others
