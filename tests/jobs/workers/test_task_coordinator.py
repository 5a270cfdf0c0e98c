"""The coordinator as the trials of one task see it: by their own numbers, and their own messages."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from jobs.pack.membership import PackMembership, RungResult, StepReport
from jobs.pack.task_numbers import key_of
from jobs.workers.coordinator import Coordinator
from jobs.workers.messages import LoggedStep, Note, StepMetrics
from jobs.workers.task_coordinator import TaskCoordinator
from tests.support.packs import varied


class Here:
    """A handle of a coordinator in this process."""

    def __init__(self, actor: Coordinator) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return Remote(getattr(self.actor, name))


class Remote:
    """A method that answers at once."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def remote(self, *args: Any) -> Any:
        return asyncio.run(self.method(*args))


def two_tasks() -> tuple[Here, Any, Any]:
    shared = Here(Coordinator(PackMembership(1, 4, 4)))
    return shared, TaskCoordinator(shared, 1), TaskCoordinator(shared, 2)


def test_trials_of_one_number_in_two_tasks_have_seats_of_their_own(rows: Path) -> None:
    shared, one, two = two_tasks()
    trial = varied(rows)[1]
    lease_ids = one.join_pack.remote(1, trial, None, 0), two.join_pack.remote(1, trial, "there", 10)
    membership = shared.actor._membership
    assert set(membership.by_trial) == {key_of(1, 1), key_of(2, 1)}
    membership.let_train(key_of(2, 1))
    report = StepReport({}, {key_of(2, 1): {"step": 20, "valid/loss": 0.5}}, {})
    membership.publish(report, {key_of(2, 1): lease_ids[1]})
    answer = membership.by_trial[key_of(2, 1)].result
    assert isinstance(answer, RungResult) and answer.metrics["step"] == 20
    one.fail.remote(1, "bad rows")
    assert one.failure.remote(1) == "bad rows" and two.failure.remote(1) is None
    one.ended.remote(1)
    assert set(membership.by_trial) == {key_of(2, 1)} and membership.away == {key_of(1, 1)}
    two.expect.remote([1, 2], False)
    assert membership.away == {key_of(1, 1), key_of(2, 1), key_of(2, 2)}


def test_each_task_drains_what_is_said_of_its_own_trials() -> None:
    shared, one, two = two_tasks()
    for key in (key_of(1, 3), key_of(2, 3), key_of(2, 4)):
        shared.post.remote(StepMetrics(key, [LoggedStep(0, 1, {"train/loss": 1.0})]))
    shared.post.remote(Note("of all"))
    shared.post.remote(Note("of one", key_of(1, 3)))
    assert [post.message.trial for post in two.drain.remote()] == [3, 4]
    assert [type(post.message) for post in one.drain.remote()] == [StepMetrics, Note]
    assert [post.message.text for post in shared.drain.remote(0)] == ["of all"]
    assert one.drain.remote() == two.drain.remote() == shared.drain.remote() == []


def test_each_task_is_left_the_checkpoints_of_its_own_trials(rows: Path) -> None:
    shared, one, two = two_tasks()
    trial = varied(rows)[1]
    one.join_pack.remote(1, trial, "first", 10)
    two.join_pack.remote(2, trial, "second", 20)
    assert one.left.remote() == (True, {1: ("first", 10)})
    assert two.left.remote() == (True, {2: ("second", 20)})
    assert shared.left.remote() == (True, {})


def test_a_sweep_by_itself_has_its_trials_as_they_are() -> None:
    coordinator = Coordinator(PackMembership(1, 4, 4))
    asyncio.run(coordinator.post(Note("of one", 5)))
    assert [post.message.trial for post in asyncio.run(coordinator.drain())] == [5]
