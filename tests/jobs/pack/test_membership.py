"""Who trains with whom: a pack waits for those who will come, and a trial's results find their way
back.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel, Train, WorkerSpec
from jobs.pack.loop import next_rung
from jobs.pack.membership import (
    UNDECIDED_SECONDS,
    AbortReason,
    PackMembership,
    RungResult,
    StepReport,
)
from jobs.workers.coordinator import MOST_POSTS, Coordinator
from jobs.workers.messages import LoggedStep, StepMetrics
from jobs.workers.packed_trial import with_point
from tests.support.plain import make

TRIAL = make(Path("rows.jsonl"))


def join_all(membership: PackMembership, *indices: int, may_train: bool = True) -> dict[int, int]:
    """Let trials join; returns their leases."""
    lease_ids = {index: membership.join(index, TRIAL, None, 0) for index in indices}
    for index in indices if may_train else ():
        membership.let_train(index)
    return lease_ids


def test_a_pack_waits_until_all_that_will_come_have_come() -> None:
    membership = PackMembership(num_packs=1, capacity=4, total=3)
    join_all(membership, 1, 3)
    assert not membership.ready(0)
    join_all(membership, 2)
    assert membership.ready(0)
    assert [member.index for member in membership.members(0)] == [1, 2, 3]


def test_a_trial_that_has_not_decided_holds_the_pack() -> None:
    membership = PackMembership(1, 4, 2)
    lease_ids = join_all(membership, 1, 2)
    membership.publish(
        StepReport({1: ("a", 10), 2: ("b", 10)}, {1: {"step": 10}, 2: {"step": 10}}, {}), lease_ids
    )
    assert not membership.ready(0)
    membership.let_train(1)
    assert not membership.ready(0)
    membership.leave(2, lease_ids[2])
    assert not membership.ready(0)  # the driver has not said yet whether it comes back
    membership.expect(2, False)
    assert membership.ready(0)


def test_paused_trials_are_waited_for_once_they_have_won() -> None:
    membership = PackMembership(1, 4, 3)
    lease_ids = join_all(membership, 1, 2, 3)
    for index in (1, 2):
        membership.leave(index, lease_ids[index])
        membership.expect(index, False)
    assert membership.ready(0)
    membership.expect(1, True)
    assert not membership.ready(0)
    join_all(membership, 1)
    assert membership.ready(0)


def test_a_trial_that_waits_for_its_rung_counts_for_no_one_although_it_still_sits() -> None:
    membership = PackMembership(1, 2, 4)
    lease_ids = join_all(membership, 1, 2)
    membership.publish(StepReport({}, {1: {"step": 10}, 2: {"step": 10}}, {}), lease_ids)
    for index in (1, 2):
        membership.expect(index, False)  # paused, but its process has not stood up yet
    join_all(membership, 3)
    assert not membership.ready(0)  # trial 4 is still to come
    join_all(membership, 4)
    assert membership.ready(0)
    assert [member.index for member in membership.members(0)] == [3, 4]


def test_more_trials_than_slots_fill_the_slots() -> None:
    membership = PackMembership(1, 2, 5)
    join_all(membership, 1)
    assert not membership.ready(0)
    join_all(membership, 2)
    assert membership.ready(0)
    membership.leave(1)
    membership.expect(1, False)
    assert not membership.ready(0)
    join_all(membership, 3)
    assert membership.ready(0)


def test_trials_spread_over_packs() -> None:
    membership = PackMembership(2, 2, 4)
    join_all(membership, 1, 2, 3, 4)
    assert [[member.index for member in membership.members(pack)] for pack in (0, 1)] == [
        [1, 3],
        [2, 4],
    ]
    assert membership.ready(0) and membership.ready(1)


def test_results_of_a_trial_that_has_left_or_come_anew_are_dropped() -> None:
    membership = PackMembership(1, 2, 2)
    old = join_all(membership, 1, 2)
    again = membership.join(1, TRIAL, "there", 5)
    assert again != old[1]
    membership.leave(2)
    membership.publish(StepReport({1: ("a", 10), 2: ("b", 10)}, {1: {"step": 10}}, {}), old)
    assert membership.by_trial[1].result is None and membership.by_trial[1].checkpoint == "there"
    membership.leave(1, old[1])  # the old process dies late
    assert membership.holds(1, again)


def test_a_failure_reaches_its_trial_alone_and_a_snapshot_reaches_all() -> None:
    membership = PackMembership(1, 3, 3)
    lease_ids = join_all(membership, 1, 2, 3)
    membership.publish(
        StepReport({2: ("b", 7), 3: ("c", 10)}, {3: {"step": 10}}, {1: "diverged"}), lease_ids
    )
    assert membership.by_trial[1].result == AbortReason(failure="diverged")
    assert (
        membership.by_trial[2].checkpoint,
        membership.by_trial[2].step,
        membership.by_trial[2].may_train,
    ) == ("b", 7, True)
    assert membership.by_trial[3].result == RungResult({"step": 10}, "c")


def test_a_trial_whose_process_was_killed_holds_nobody_up_for_long() -> None:
    membership = PackMembership()
    lease_ids = join_all(membership, 1, 2)
    membership.publish(StepReport({}, {1: {"step": 10}, 2: {"step": 10}}, {}), lease_ids)
    membership.let_train(2)
    assert not membership.ready(0)
    membership.by_trial[1].since -= UNDECIDED_SECONDS + 1
    assert membership.ready(0)
    membership.publish(StepReport({}, {2: {"step": 20}}, {}), lease_ids)
    membership.let_train(2)
    assert membership.ready(0), "it is waited for once, not at every rung"


def test_a_trial_keeps_the_number_under_which_it_came_whatever_settings_it_is_handed_later() -> (
    None
):
    async def come() -> list[int]:
        coordinator = Coordinator(PackMembership())
        return [await coordinator.number(*who) for who in (("a", 1), ("b", 2), ("a", 2), ("b", 2))]

    assert asyncio.run(come()) == [1, 2, 1, 2]


def test_no_message_is_ever_dropped_and_workers_hear_when_there_is_no_room() -> None:
    async def busy() -> tuple[int, bool, bool, bool]:
        coordinator = Coordinator(PackMembership())
        room = [
            await coordinator.post(StepMetrics(1, [LoggedStep(0, step, {})]))
            for step in range(150_000)
        ]
        full = await coordinator.has_room()
        taken = await coordinator.drain()
        steps = [post.message.steps[0].step for post in taken]  # type: ignore[union-attr]
        assert steps == list(range(150_000))
        return len(taken), room[0], full, await coordinator.has_room()

    assert asyncio.run(busy()) == (150_000, True, False, True)


def test_when_the_sweep_is_over_no_worker_waits_for_room() -> None:
    async def close() -> bool:
        coordinator = Coordinator(PackMembership())
        for step in range(MOST_POSTS):
            await coordinator.post(StepMetrics(1, [LoggedStep(0, step, {})]))
        assert not await coordinator.has_room()
        await coordinator.close()
        return await coordinator.has_room()

    assert asyncio.run(close())


def test_a_pause_sends_packs_home_and_ends_when_all_have_kept_what_they_have() -> None:
    async def pause() -> list[Any]:
        coordinator = Coordinator(PackMembership(1, 2, 2))
        for index in (1, 2):
            await coordinator.join_pack(index, TRIAL, f"old/{index}", 10)
            coordinator._membership.let_train(index)
        members = await coordinator.members(0)
        assert members is not None and len(await coordinator.lease_ids(0)) == 2
        await coordinator.begin(7)  # a trial with workers of its own
        await coordinator.rest()
        found: list[Any] = [
            await coordinator.members(0),
            await coordinator.lease_ids(0),
            await coordinator.left(),
        ]
        await coordinator.publish(
            StepReport({1: ("new/1", 13), 2: ("new/2", 13)}, {}, {}),
            {member.index: member.lease_id for member in members},
        )
        await coordinator.rested(-1, {})
        found.append((await coordinator.left())[0])
        await coordinator.rested(7, {7: ("new/7", 4)})
        return [*found, await coordinator.left()]

    old, new = (
        {1: ("old/1", 10), 2: ("old/2", 10)},
        {1: ("new/1", 13), 2: ("new/2", 13), 7: ("new/7", 4)},
    )
    assert asyncio.run(pause()) == [None, {}, (False, old), False, (True, new)]


def test_the_first_reason_that_nobody_trains_for_counts() -> None:
    async def give_up() -> AbortReason | None:
        coordinator = Coordinator(PackMembership())
        await coordinator.abort(AbortReason(fault="the disk is full"))
        await coordinator.abort(AbortReason(failure="the workers were killed for it"))
        return await coordinator.abort_reason()

    assert asyncio.run(give_up()) == AbortReason(fault="the disk is full")


def test_without_a_driver_that_counts_nobody_is_waited_for() -> None:
    membership = PackMembership()
    assert not membership.ready(0)
    join_all(membership, 4)
    assert membership.ready(0)


@pytest.mark.parametrize(("step", "rung"), [(0, 40), (39, 40), (40, 80), (80, 100), (99, 100)])
def test_the_last_rung_is_the_end(step: int, rung: int) -> None:
    assert next_rung(step, Train(steps=100, eval_every=40)) == rung


class Scalar:
    """What numpy and some searchers hand out instead of a number."""

    def item(self) -> float:
        return 0.25


def test_a_point_is_put_into_a_trial_by_dotted_path() -> None:
    changed: Any = with_point(
        TRIAL, {"optim.lr": Scalar(), "data.sources.train.weight": 0.5, "adapter.rank": 2}
    )
    assert (changed.optim.lr, changed.data.sources["train"].weight, changed.adapter.rank) == (
        0.25,
        0.5,
        2,
    )
    assert TRIAL.optim.lr != 0.25
    with pytest.raises(ValueError, match=r"adapter\.rank must be between"):
        with_point(TRIAL, {"adapter.rank": 0})


def test_an_assignment_can_be_pickled_without_torch() -> None:
    import pickle
    import subprocess
    import sys

    base = BaseModel(name="tiny", source="tiny", id="tiny", revision="1", path="x")
    data = pickle.dumps(
        WorkerSpec(
            sweep="s",
            trial=TRIAL,
            base=base,
            storage="x",
            metric="valid/loss",
            maximise=False,
            cpus=1,
            gpus=0,
        )
    )
    code = f"import pickle, sys; pickle.loads({data!r}); import jobs.workers.packed_trial; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3]
    )
