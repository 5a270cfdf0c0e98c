"""Who trains and what they said: a named actor between the training processes, Tune's trials and
the driver.

Workers post to it without waiting; the driver drains it. It remembers where workers sit, so that
the driver can free their resources, and whether they have run out of memory, so that the next
attempt takes smaller portions. For packs it keeps the membership (pack/membership.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import ray

from jobs.config import Trial
from jobs.pack.membership import (
    AbortReason,
    Member,
    PackMembership,
    RungResult,
    SavedCheckpoint,
    StepReport,
)
from jobs.pack.task_numbers import index_of, task_of
from jobs.workers.messages import JudgingProgress, Message, Posted

Answer = TypeVar("Answer")
NAMESPACE = "orchestrator"
COMPANY_SECONDS = 120.0
"""How long a pack waits for trials that should come; then it goes on with those that are there."""
MOST_POSTS = 20_000
"""With so many messages that the driver has not taken yet, workers wait before they send more."""
FREED_SECONDS = 20.0
"""How long the name of a coordinator that was let go may be taken."""
OTHER_CALLS = 1000
"""Calls that do not wait for anyone and may be under way at once."""


CoordinatorHandle = Any
"""Ray's handle of the running actor. `handle.METHOD.remote(...)` calls a method of Coordinator and
gives a reference to its answer; Ray has no type for that.
"""


class Coordinator:
    """The actor's state, around the membership of its packs. Everything is keyed by the trial's
    index; a pack's workers by minus one minus its number.
    """

    def __init__(self, membership: PackMembership) -> None:
        self._membership = membership
        self._posts: deque[Posted] = deque()
        """Messages for the driver. None is ever dropped: a worker whose messages pile up waits at
        its next flush, see reporting.MetricsBuffer.
        """
        self._groups: dict[int, str] = {}
        self._shrunk: dict[int, int] = {}
        self._failures: dict[int, str] = {}
        self._stopped: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        # Each waits at its own bell: with one for all, every change would wake thousands of trials
        # and packs to look at what is not theirs.
        self._trial_bells: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._pack_bells = [asyncio.Event() for _ in range(membership.num_packs)]
        self._resting = False
        self._working: set[int] = set()
        """Whose workers train now: trials by index, packs by minus one minus their number."""
        self._left: dict[int, SavedCheckpoint] = {}
        self._settled: set[int] = set()
        """Packs that lack nothing but trials that are still to come."""

    async def post(self, message: Message) -> bool:
        """Leave a message for the driver; returns whether there is room for more."""
        self._posts.append(Posted(int(time.time() * 1000), message))
        return await self.has_room()

    async def has_room(self) -> bool:
        """Whether a worker may send more metrics. Nobody is held up when the sweep is over: the
        driver may not come any more.
        """
        return self._membership.closed or len(self._posts) < MOST_POSTS

    async def drain(self, task: int | None = None) -> list[Posted]:
        """All messages since the last call, oldest first. With a task of a fleet those about its
        trials, by their numbers there; task 0 gets those about no trial.
        """
        messages = list(self._posts)
        self._posts.clear()
        if task is None:
            return messages
        self._posts.extend(post for post in messages if task_of(about(post)) != task)
        return [of_task(post) for post in messages if task_of(about(post)) == task]

    async def sit(self, trial: int, group: str) -> int:
        """Record the placement group (as hexadecimal id) of workers; returns how often they have
        run out of memory.
        """
        self._groups[trial] = group
        self._working.discard(trial)
        return self._shrunk.get(trial, 0)

    async def shrink(self, trial: int) -> None:
        """Record that a worker was killed for lack of memory."""
        self._shrunk[trial] = self._shrunk.get(trial, 0) + 1

    async def times_shrunk(self, trial: int) -> int:
        """How often workers were killed for lack of memory."""
        return self._shrunk.get(trial, 0)

    async def fail(self, trial: int, reason: str) -> None:
        """Record why a trial failed."""
        self._failures[trial] = reason

    async def stop(self, trial: int, reason: str) -> None:
        """Record why a trial has ended inside its rung."""
        self._stopped[trial] = reason

    async def why_stopped(self, trial: int) -> str | None:
        """Why a trial has ended inside its rung, if it has."""
        return self._stopped.get(trial)

    async def failure(self, trial: int) -> str | None:
        """Why a trial failed, if it could say so."""
        return self._failures.get(trial)

    async def placed(self) -> list[int]:
        """Whose workers have been placed and started."""
        return list(self._groups)

    async def leave(self, trial: int) -> str | None:
        """Forget the placement group and return it."""
        self._working.discard(trial)
        return self._groups.pop(trial, None)

    async def number(self, tune_id: str, index: int) -> int:
        """Under which number a trial of Tune's is known: the first that it named. Population based
        training hands it another trial's settings later, that one's number among them.
        """
        return self._numbers.setdefault(tune_id, index)

    async def join_pack(self, index: int, trial: Trial, checkpoint: str | None, step: int) -> int:
        """A trial joins a pack, or does so again; returns its lease."""
        return self._change([index], lambda packs: packs.join(index, trial, checkpoint, step))

    async def train(self, index: int, lease_id: int) -> RungResult | AbortReason:
        """Have the trial trained to its next rung, and wait for what came out."""
        self._change(
            [index],
            lambda packs: packs.let_train(index) if packs.holds(index, lease_id) else None,
        )
        bell = self._trial_bells[index]
        while (answer := self._answer(index, lease_id)) is None:
            bell.clear()
            await bell.wait()
        return answer

    def _answer(self, index: int, lease_id: int) -> RungResult | AbortReason | None:
        if self._membership.abort_reason is not None or not self._membership.holds(index, lease_id):
            return self._membership.abort_reason or AbortReason(failure="its seat was given away")
        return self._membership.by_trial[index].result

    async def leave_pack(self, index: int, lease_id: int | None = None) -> None:
        """A trial leaves its pack."""
        self._change([index], lambda packs: packs.leave(index, lease_id))

    async def expect(self, indices: list[int], coming: bool) -> None:
        """The driver knows that these trials will come to be trained again, or will not."""
        self._change(indices, lambda packs: [packs.expect(index, coming) for index in indices])

    async def ended(self, index: int) -> None:
        """The driver knows that a trial has ended, however its process fared."""
        self._working.discard(index)
        self._change([index], lambda packs: (packs.leave(index), packs.expect(index, False)))
        self._trial_bells.pop(index, None)

    async def widen(self) -> None:
        """One more trial will come than was said at the start."""
        self._change([], PackMembership.widen)

    async def members(self, pack: int) -> list[Member] | None:
        """Wait until a pack's members are complete and return them; None when the sweep is over, or
        pauses.
        """
        deadline = self._membership.clock() + COMPANY_SECONDS
        bell = self._pack_bells[pack]
        while (
            not self._over()
            and not self._membership.ready(pack)
            and self._membership.clock() < deadline
        ):
            bell.clear()
            with contextlib.suppress(asyncio.TimeoutError):  # time alone can settle it
                await asyncio.wait_for(bell.wait(), 1.0)
        if self._over():
            return None
        self._working.add(-1 - pack)
        return self._membership.members(pack)

    def _over(self) -> bool:
        """Whether packs train nothing more."""
        return self._membership.closed or self._resting

    async def lease_ids(self, pack: int) -> dict[int, int]:
        """A pack's members now, with their leases; nobody when the sweep pauses, so that the pack
        looks up.
        """
        if self._resting:
            return {}
        return {member.index: member.lease_id for member in self._membership.members(pack)}

    async def publish(self, boundary: StepReport, lease_ids: dict[int, int]) -> None:
        """A pack's results at a step boundary."""
        self._change(list(lease_ids), lambda packs: packs.publish(boundary, lease_ids))

    async def begin(self, key: int) -> None:
        """A trial's own workers start to train."""
        self._working.add(key)

    async def rest(self) -> None:
        """The sweep pauses: whoever trains keeps what it has learned so far, and ends."""
        self._resting = True
        self._ring_all()

    async def resting(self) -> bool:
        """Whether the sweep pauses."""
        return self._resting

    async def rested(self, key: int, snapshots: dict[int, SavedCheckpoint]) -> None:
        """Workers have ended, and these are the checkpoints that they leave, by trial."""
        self._working.discard(key)
        self._left |= snapshots

    async def left(self, task: int = 0) -> tuple[bool, dict[int, SavedCheckpoint]]:
        """Whether nobody trains any more, and the newest checkpoint of every trial of a task."""
        seated = {
            member.index: SavedCheckpoint(member.checkpoint, member.step)
            for member in self._membership.by_trial.values()
            if member.checkpoint
        }
        ours = {
            index_of(key): checkpoint
            for key, checkpoint in (seated | self._left).items()
            if task_of(key) == task
        }
        return not self._working, ours

    async def abort(self, abort_reason: AbortReason) -> None:
        """Nobody will train any more. The first reason counts."""
        self._membership.abort_reason = self._membership.abort_reason or abort_reason
        self._ring_all()

    async def abort_reason(self) -> AbortReason | None:
        """Why nobody trains, if so."""
        return self._membership.abort_reason

    async def is_closed(self) -> bool:
        """Whether the sweep is over."""
        return self._membership.closed

    async def close(self) -> None:
        """The sweep is over: packs may go home."""
        self._membership.closed = True
        self._ring_all()

    def _change(self, indices: list[int], change: Callable[[PackMembership], Answer]) -> Answer:
        """Change the membership of these trials, and wake them and the packs that can go on now."""
        membership = self._membership
        touched = {
            membership.by_trial[index].pack for index in indices if index in membership.by_trial
        }
        was_whole = membership.everyone_joined()
        answer = change(membership)
        for index in indices:
            if index in self._trial_bells:
                self._trial_bells[index].set()
            if index in membership.by_trial:
                touched.add(membership.by_trial[index].pack)
        for pack in touched:
            if membership.members_ready(pack):
                self._settled.add(pack)
            else:
                self._settled.discard(pack)
        if membership.everyone_joined():
            ready = self._settled & touched if was_whole else self._settled
            for pack in ready:
                self._pack_bells[pack].set()
        return answer

    def _ring_all(self) -> None:
        """Wake everyone."""
        for bell in [*self._trial_bells.values(), *self._pack_bells]:
            bell.set()


def about(post: Posted) -> int:
    """The key of the trial that a message is about; 0 for one about no trial."""
    message = post.message
    if isinstance(message, JudgingProgress) or message.trial is None:
        return 0
    return message.trial


def of_task(post: Posted) -> Posted:
    """A message with the trial's number in its task in the place of its key."""
    message = post.message
    if isinstance(message, JudgingProgress) or message.trial is None:
        return post
    return replace(post, message=replace(message, trial=index_of(message.trial)))


def name_of(sweep: str) -> str:
    """The actor's name."""
    return f"coordinator-{sweep}"


def open_coordinator(sweep: str, membership: PackMembership) -> CoordinatorHandle:
    """Start the actor, on the driver's own node; it lives as long as the driver keeps the
    handle.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_this_node: Any = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )  # no other node's death may end it
    # Every seated trial and every pack may have a call waiting here; with fewer places, the call
    # that would end the wait gets none.
    max_calls = OTHER_CALLS + membership.num_packs + (membership.total or 0)
    settings: Any = {
        "name": name_of(sweep),
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_concurrency": max_calls,
    }
    actor = ray.remote(Coordinator).options(**settings, scheduling_strategy=on_this_node)
    deadline = time.monotonic() + FREED_SECONDS
    while True:
        try:
            return actor.remote(membership)
        except ValueError:  # one that has just been let go still has the name
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def find_coordinator(sweep: str) -> CoordinatorHandle:
    """The running actor, from any process of the cluster."""
    return ray.get_actor(name_of(sweep), namespace=NAMESPACE)


def end_controllers() -> None:
    """Kill this driver's Ray Train controllers, where the sweep is over, and take their workers'
    places back: one whose workers have no place yet waits for it without end, one whose workers are
    just starting leaves theirs taken, and a thread that still waits for its controller when Ray is
    shut down takes the whole process with it.
    """
    from ray import ActorID
    from ray._private import worker
    from ray._private.state import state

    core: Any = vars(worker.global_worker)["core_worker"]
    job_id: Any = ray.get_runtime_context().get_job_id()
    for id, actor in state.actor_table(None, None).items():
        if (
            actor["ActorClassName"] == "TrainController"
            and actor["JobID"] == job_id
            and actor["State"] != "DEAD"
        ):
            with contextlib.suppress(ValueError, RuntimeError):
                core.kill_actor(ActorID.from_hex(id), True)
    for group, facts in ray.util.placement_group_table().items():
        if (
            group.endswith(job_id) and facts["state"] != "REMOVED"
        ):  # an id ends with that of the job that it belongs to
            free(group)


def free(group: str | None) -> None:
    """Remove a placement group that its trial left behind; its workers die with it. Harmless when
    it is already gone.

    Ray Train's own cleaner does this too, but only where the dashboard runs and only one Ray runs
    on the host.
    """
    if group is None:
        return
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(ValueError, RuntimeError):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
