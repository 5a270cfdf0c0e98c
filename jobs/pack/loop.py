"""The pack at work: load the trials that came, train those that may to their next rung, publish
what came out, again until all is over.

Free of Ray: `CoordinatorClient` is how it hears and speaks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jobs.config import Train
from jobs.data.trial_data import shortened
from jobs.files.checkpoints import fetched
from jobs.files.json_types import JsonObject
from jobs.files.manifest import Snapshot
from jobs.pack.engine import Pack
from jobs.pack.evaluation import validate
from jobs.pack.generation import text_metrics
from jobs.pack.loss_curves import Course, rows_of, stopped
from jobs.pack.membership import Member, RungMetrics, SavedCheckpoint, StepReport
from jobs.pack.task_numbers import index_of, task_of


@dataclass(frozen=True)
class WatchedTrials:
    """Trials that their losses may end: those up to `num_trials`, not the changed copies and
    finalists beyond, which train to their end.
    """

    num_trials: int
    reduction: int
    """One in so many survives a rung."""

    def watches(self, index: int) -> bool:
        """Whether a trial is one of them."""
        return index <= self.num_trials

    def ended(self, courses: Mapping[int, Course]) -> dict[int, str]:
        """Who of those that train in this step stops now, with the reason."""
        return stopped(courses, self.reduction)


@dataclass(frozen=True)
class WatchedTasks:
    """Those of a fleet: the trials of each task are compared with one another alone."""

    tasks: Mapping[int, WatchedTrials]

    def watches(self, key: int) -> bool:
        """Whether a trial is one of its task's."""
        watched = self.tasks.get(task_of(key))
        return watched is not None and watched.watches(index_of(key))

    def ended(self, courses: Mapping[int, Course]) -> dict[int, str]:
        """Who of those that train in this step stops now, with the reason."""
        reasons: dict[int, str] = {}
        for task, watched in self.tasks.items():
            ours = {key: course for key, course in courses.items() if task_of(key) == task}
            if ours:
                reasons |= watched.ended(ours)
        return reasons


class Checkpoints(Protocol):
    """Where checkpoints are kept; see checkpoints.CheckpointStore."""

    def put(self, index: int, step: int, save: Snapshot, report: JsonObject | None = None) -> str:
        """Write a checkpoint; returns its place."""
        ...

    def at(self, index: int, step: int) -> str:
        """Where a trial's checkpoint of a step lies."""
        ...


class CoordinatorClient(Protocol):
    """Between a pack's workers and the coordinator. Every worker calls the same methods in the same
    order and hears the same.
    """

    def members(self) -> list[Member] | None:
        """Its members, once all are ready; None when the sweep is over or pauses."""

    def resting(self) -> bool:
        """Whether it pauses: what every slot has learned is to be kept."""
        ...

    def left(self, lease_ids: dict[int, int]) -> bool:
        """Whether someone has left since."""
        ...

    def publish(self, boundary: StepReport, lease_ids: dict[int, int]) -> None:
        """What came out at a step boundary."""

    def tell(self, steps: dict[int, tuple[int, dict[str, float]]]) -> None:
        """Metrics of one step, by trial; nobody waits for them."""


def next_rung(step: int, train: Train) -> int:
    """The step at which a trial that has done `step` steps is evaluated next."""
    return min((step // train.eval_every + 1) * train.eval_every, train.steps)


def serve(
    pack: Pack,
    client: CoordinatorClient,
    checkpoints: Checkpoints,
    watched: WatchedTrials | WatchedTasks | None = None,
) -> None:
    """Train until the sweep is over, or pauses. `watched` trials may be stopped inside a rung.

    Raises MemoryError when not even one example fits, OSError when the storage takes no checkpoint,
    Damaged for one that cannot be used.
    """
    leases: dict[int, int] = {}
    saved: dict[int, SavedCheckpoint] = {}
    while (members := client.members()) is not None:
        failures = load_members(pack, members, leases, saved)
        if failures:
            client.publish(StepReport({}, {}, failures), dict(leases))
            continue
        going = {
            member.index: next_rung(pack.slots[member.index].step, member.trial.train)
            for member in members
            if member.may_train
        }
        if not going:
            time.sleep(0.05)
        while going and not client.left(leases):
            unreadable = {index: reason for index in going if (reason := pack.unreadable(index))}
            if unreadable:
                client.publish(StepReport({}, {}, unreadable), dict(leases))
                break
            metrics = pack.step(list(going))
            client.tell(
                {
                    index: (pack.slots[index].step, step_metrics)
                    for index, step_metrics in metrics.items()
                }
            )
            failed = {index: reason for index in going if (reason := pack.failure(index))}
            ended = hopeless(pack, going, failed, watched)
            due = [
                index
                for index, rung in going.items()
                if pack.slots[index].step >= rung and index not in failed
            ]
            if due or failed or ended:
                reports, unscored = reached(pack, due, metrics)
                failed |= unscored
                kept = snapshots(pack, checkpoints, reports, failed | ended, saved)
                client.publish(StepReport(kept, reports, failed, ended), dict(leases))
                break
    if client.resting():
        client.publish(
            StepReport(snapshots(pack, checkpoints, {}, {}, saved), {}, {}), dict(leases)
        )


def hopeless(
    pack: Pack,
    going: dict[int, int],
    failed: dict[int, str],
    watched: WatchedTrials | WatchedTasks | None,
) -> dict[int, str]:
    """Who of those that have trained stops inside its rung, with the reason."""
    if watched is None:
        return {}
    courses = {
        index: Course(slot.losses, slot.step, rung, rows_of(slot.trial))
        for index, rung in going.items()
        if index not in failed and watched.watches(index)
        for slot in [pack.slots[index]]
    }
    return watched.ended(courses)


def load_members(
    pack: Pack, members: list[Member], leases: dict[int, int], saved: dict[int, SavedCheckpoint]
) -> dict[int, str]:
    """Bring the slots in line with the pack's members; returns why some could not be loaded.

    `saved` holds, of every slot, the checkpoint that it was last written to or read from.
    """
    present = {member.index: member for member in members}
    failures = {}
    for index in [
        index
        for index, lease_id in leases.items()
        if index not in present or present[index].lease_id != lease_id
    ]:
        if index in pack.slots:
            pack.leave(index)
        saved.pop(index, None)
        del leases[index]
    for member in members:
        if member.index not in leases:
            checkpoint = fetched(member.checkpoint) if member.checkpoint else None
            try:
                pack.join(member.index, member.trial, checkpoint)
            except ValueError as error:
                failures[member.index] = str(error)
            if member.checkpoint and member.index not in failures:
                saved[member.index] = SavedCheckpoint(
                    member.checkpoint, pack.slots[member.index].step
                )
            leases[member.index] = member.lease_id
    return failures


def reached(
    pack: Pack, due: list[int], metrics: dict[int, dict[str, float]]
) -> tuple[dict[int, RungMetrics], dict[int, str]]:
    """Evaluate who is due; the reports, and why some have none: worker 0 tells them, so it decides
    for all workers.
    """
    tallies = validate(pack, due)
    texts, failures = text_metrics(pack, due)
    reports: dict[int, RungMetrics] = {
        index: {
            "step": pack.slots[index].step,
            **metrics[index],
            **tallies[index].metrics(),
            **texts[index],
            **pack.slots[index].course.drawn(pack.slots[index].step),
            **shortened("valid", pack.corpus(pack.slots[index].trial)[2]),
        }
        for index in due
        if index not in failures
    }
    return reports, failures


def snapshots(
    pack: Pack,
    checkpoints: Checkpoints,
    reports: Mapping[int, RungMetrics],
    failed: dict[int, str],
    saved: dict[int, SavedCheckpoint],
) -> dict[int, SavedCheckpoint]:
    """Take a snapshot of every slot at this one step. One that has not moved lies there already,
    with the score of its rung.
    """
    if pack.world.rank > 0:
        return {}
    for index in [index for index in pack.slots if index not in failed]:
        step = pack.slots[index].step
        if step > 0 and saved.get(index) != (checkpoints.at(index, step), step):
            location = checkpoints.put(
                index, step, pack.slots[index].snapshot(), reports.get(index)
            )
            saved[index] = SavedCheckpoint(location, step)
    return {
        index: checkpoint
        for index, checkpoint in saved.items()
        if index in pack.slots and index not in failed
    }
