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


def sit(seats: PackMembership, *indices: int, credit: bool = True) -> dict[int, int]:
    """Let trials sit down; returns their tickets."""
    tickets = {index: seats.take(index, TRIAL, None, 0) for index in indices}
    for index in indices if credit else ():
        seats.credit(index)
    return tickets


def test_a_pack_waits_until_all_that_will_come_have_come() -> None:
    seats = PackMembership(num_packs=1, capacity=4, total=3)
    sit(seats, 1, 3)
    assert not seats.ready(0)
    sit(seats, 2)
    assert seats.ready(0)
    assert [seat.index for seat in seats.company(0)] == [1, 2, 3]


def test_a_trial_that_has_not_decided_holds_the_pack() -> None:
    seats = PackMembership(1, 4, 2)
    tickets = sit(seats, 1, 2)
    seats.hand_in(
        StepReport({1: ("a", 10), 2: ("b", 10)}, {1: {"step": 10}, 2: {"step": 10}}, {}), tickets
    )
    assert not seats.ready(0)
    seats.credit(1)
    assert not seats.ready(0)
    seats.leave(2, tickets[2])
    assert not seats.ready(0)  # the driver has not said yet whether it comes back
    seats.expect(2, False)
    assert seats.ready(0)


def test_paused_trials_are_waited_for_once_they_have_won() -> None:
    seats = PackMembership(1, 4, 3)
    tickets = sit(seats, 1, 2, 3)
    for index in (1, 2):
        seats.leave(index, tickets[index])
        seats.expect(index, False)
    assert seats.ready(0)
    seats.expect(1, True)
    assert not seats.ready(0)
    sit(seats, 1)
    assert seats.ready(0)


def test_a_trial_that_waits_for_its_rung_counts_for_no_one_although_it_still_sits() -> None:
    seats = PackMembership(1, 2, 4)
    tickets = sit(seats, 1, 2)
    seats.hand_in(StepReport({}, {1: {"step": 10}, 2: {"step": 10}}, {}), tickets)
    for index in (1, 2):
        seats.expect(index, False)  # paused, but its process has not stood up yet
    sit(seats, 3)
    assert not seats.ready(0)  # trial 4 is still to come
    sit(seats, 4)
    assert seats.ready(0)
    assert [seat.index for seat in seats.company(0)] == [3, 4]


def test_more_trials_than_slots_fill_the_slots() -> None:
    seats = PackMembership(1, 2, 5)
    sit(seats, 1)
    assert not seats.ready(0)
    sit(seats, 2)
    assert seats.ready(0)
    seats.leave(1)
    seats.expect(1, False)
    assert not seats.ready(0)
    sit(seats, 3)
    assert seats.ready(0)


def test_trials_spread_over_packs() -> None:
    seats = PackMembership(2, 2, 4)
    sit(seats, 1, 2, 3, 4)
    assert [[seat.index for seat in seats.company(pack)] for pack in (0, 1)] == [[1, 3], [2, 4]]
    assert seats.ready(0) and seats.ready(1)


def test_results_of_a_trial_that_has_left_or_come_anew_are_dropped() -> None:
    seats = PackMembership(1, 2, 2)
    old = sit(seats, 1, 2)
    again = seats.take(1, TRIAL, "there", 5)
    assert again != old[1]
    seats.leave(2)
    seats.hand_in(StepReport({1: ("a", 10), 2: ("b", 10)}, {1: {"step": 10}}, {}), old)
    assert seats.seats[1].result is None and seats.seats[1].checkpoint == "there"
    seats.leave(1, old[1])  # the old process dies late
    assert seats.holds(1, again)


def test_a_failure_reaches_its_trial_alone_and_a_snapshot_reaches_all() -> None:
    seats = PackMembership(1, 3, 3)
    tickets = sit(seats, 1, 2, 3)
    seats.hand_in(
        StepReport({2: ("b", 7), 3: ("c", 10)}, {3: {"step": 10}}, {1: "diverged"}), tickets
    )
    assert seats.seats[1].result == AbortReason(failure="diverged")
    assert (seats.seats[2].checkpoint, seats.seats[2].step, seats.seats[2].credit) == ("b", 7, True)
    assert seats.seats[3].result == RungResult({"step": 10}, "c")


def test_a_trial_whose_process_was_killed_holds_nobody_up_for_long() -> None:
    seats = PackMembership()
    tickets = sit(seats, 1, 2)
    seats.hand_in(StepReport({}, {1: {"step": 10}, 2: {"step": 10}}, {}), tickets)
    seats.credit(2)
    assert not seats.ready(0)
    seats.seats[1].since -= UNDECIDED_SECONDS + 1
    assert seats.ready(0)
    seats.hand_in(StepReport({}, {2: {"step": 20}}, {}), tickets)
    seats.credit(2)
    assert seats.ready(0), "it is waited for once, not at every rung"


def test_a_trial_keeps_the_number_under_which_it_came_whatever_settings_it_is_handed_later() -> (
    None
):
    async def come() -> list[int]:
        roster = Coordinator(PackMembership())
        return [await roster.number(*who) for who in (("a", 1), ("b", 2), ("a", 2), ("b", 2))]

    assert asyncio.run(come()) == [1, 2, 1, 2]


def test_no_message_is_ever_dropped_and_workers_hear_when_there_is_no_room() -> None:
    async def busy() -> tuple[int, bool, bool, bool]:
        roster = Coordinator(PackMembership())
        room = [
            await roster.post(StepMetrics(1, [LoggedStep(0, step, {})])) for step in range(150_000)
        ]
        full = await roster.has_room()
        taken = await roster.drain()
        steps = [post.message.steps[0].step for post in taken]  # type: ignore[union-attr]
        assert steps == list(range(150_000))
        return len(taken), room[0], full, await roster.has_room()

    assert asyncio.run(busy()) == (150_000, True, False, True)


def test_when_the_sweep_is_over_no_worker_waits_for_room() -> None:
    async def close() -> bool:
        roster = Coordinator(PackMembership())
        for step in range(MOST_POSTS):
            await roster.post(StepMetrics(1, [LoggedStep(0, step, {})]))
        assert not await roster.has_room()
        await roster.close()
        return await roster.has_room()

    assert asyncio.run(close())


def test_a_pause_sends_packs_home_and_ends_when_all_have_kept_what_they_have() -> None:
    async def pause() -> list[Any]:
        roster = Coordinator(PackMembership(1, 2, 2))
        for index in (1, 2):
            await roster.take_seat(index, TRIAL, f"old/{index}", 10)
            roster._seats.credit(index)
        company = await roster.company(0)
        assert company is not None and len(await roster.tickets(0)) == 2
        await roster.begin(7)  # a trial with workers of its own
        await roster.rest()
        found: list[Any] = [await roster.company(0), await roster.tickets(0), await roster.left()]
        await roster.hand_in(
            StepReport({1: ("new/1", 13), 2: ("new/2", 13)}, {}, {}),
            {seat.index: seat.ticket for seat in company},
        )
        await roster.rested(-1, {})
        found.append((await roster.left())[0])
        await roster.rested(7, {7: ("new/7", 4)})
        return [*found, await roster.left()]

    old, new = (
        {1: ("old/1", 10), 2: ("old/2", 10)},
        {1: ("new/1", 13), 2: ("new/2", 13), 7: ("new/7", 4)},
    )
    assert asyncio.run(pause()) == [None, {}, (False, old), False, (True, new)]


def test_the_first_reason_that_nobody_trains_for_counts() -> None:
    async def give_up() -> AbortReason | None:
        roster = Coordinator(PackMembership())
        await roster.give_up(AbortReason(fault="the disk is full"))
        await roster.give_up(AbortReason(failure="the workers were killed for it"))
        return await roster.verdict()

    assert asyncio.run(give_up()) == AbortReason(fault="the disk is full")


def test_without_a_driver_that_counts_nobody_is_waited_for() -> None:
    seats = PackMembership()
    assert not seats.ready(0)
    sit(seats, 4)
    assert seats.ready(0)


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
