"""Trials that stop inside a rung by their losses: who does, that his slot is filled at once, and
that neither an interruption nor the others change it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel, Trial
from jobs.files.checkpoints import CheckpointStore
from jobs.neighbour_settings import Neighbours
from jobs.pack.engine import Pack
from jobs.pack.loop import WatchedTrials, serve
from jobs.pack.loss_curves import Course, remembered, rows_of, stopped
from jobs.pack.membership import Member, PackMembership, StepReport
from tests.support.plain import make

FALLING = [4.0 - 0.2 * step for step in range(11)]
"""Losses of eleven steps."""


def course(losses: list[float], rung: int = 20, step: int = 11, rows: str = "same") -> Course:
    return Course(losses, step, rung, rows)


def test_a_loss_far_above_that_of_the_untouched_base_has_diverged() -> None:
    courses = {1: course(FALLING), 2: course([4.0] + [9.0] * 10, rows="others")}
    assert list(stopped(courses, 2)) == [2] and "diverged: 9 after 4" in stopped(courses, 2)[2]
    courses[2] = course([4.0] + [5.9] * 10, rows="others")
    assert stopped(courses, 2) == {}
    assert stopped({2: course([4.0] + [9.0] * 10)}, 2) == {}, "one goes on, whatever its loss"
    both = {1: course([4.0] + [8.0] * 10), 2: course([4.0] + [9.0] * 10)}
    assert list(stopped(both, 2)) == [2]


def test_who_is_far_behind_as_many_as_survive_stops_unless_its_pace_reaches_them() -> None:
    flat = course([4.0] * 11)
    leaders = {1: course(FALLING), 2: course(FALLING)}
    assert list(stopped(leaders | {3: flat}, 3)) == [3]
    assert "2 others on the same rows" in stopped(leaders | {3: flat}, 3)[3]
    assert stopped({1: course(FALLING), 3: flat}, 2) == {}, "two are to stay"
    many = {index: course(FALLING) for index in range(1, 4)} | {9: flat, 8: flat, 7: flat}
    assert sorted(stopped(many, 2)) == [7, 8, 9]
    assert stopped({1: course(FALLING), 2: course(FALLING), 8: flat, 9: flat, 7: flat}, 2) == {}
    steep = course([8.0 - 0.4 * step for step in range(11)])
    assert stopped(leaders | {3: steep}, 3) == {}, "it will have caught up at the rung"
    soon = {index: course(FALLING, rung=12) for index in (1, 2)}
    assert list(stopped(soon | {3: course(steep.losses, rung=12)}, 3)) == [3]


def test_other_epochs_and_neighbours_are_other_rows(rows: Path) -> None:
    trial = make(rows)
    (name,) = trial.data.sources

    def with_data(**changes: Any) -> Trial:
        return dataclasses.replace(trial, data=dataclasses.replace(trial.data, **changes))

    often = {name: dataclasses.replace(trial.data.sources[name], epochs=3.0)}
    shuffled = Neighbours(order="shuffled")
    others = [with_data(sources=often), with_data(neighbours=shuffled)]
    assert len({rows_of(trial), *map(rows_of, others)}) == 3
    assert rows_of(dataclasses.replace(trial, index=9)) == rows_of(trial)


def test_only_trials_on_the_same_rows_at_the_same_step_are_compared() -> None:
    leaders = {1: course(FALLING), 2: course(FALLING)}
    assert stopped(leaders | {3: course([4.0] * 11, rows="others")}, 3) == {}
    assert stopped(leaders | {3: course([4.0] * 11, step=10)}, 3) == {}
    assert stopped(leaders | {3: course([4.0] * 10)}, 3) == {}, "too few steps"
    assert stopped(leaders | {3: course([4.0] * 11, rung=11)}, 3) == {}, "it is compared anyway"
    assert stopped(leaders | {3: course([4.0] * 10 + [math.nan])}, 3) == {}
    small = {1: course([0.01] * 11), 2: course([0.01] * 11), 3: course([0.05] * 11)}
    assert stopped(small, 3) == {}, "next to nothing, however many times as much"


def test_what_is_remembered_is_enough() -> None:
    losses: list[float] = []
    for step in range(40):
        losses = remembered([*losses, float(step)])
    assert losses == [0.0, *map(float, range(30, 40))]


class Client:
    """The coordinator's part for trials that come as slots become free; at a step it may pause."""

    def __init__(
        self,
        trials: dict[int, Trial],
        slots: int,
        pause: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self.membership = PackMembership(1, slots, len(trials))
        self.coming = dict(trials)
        self.pause = pause
        self.pausing = False
        self.heard: dict[int, list[int]] = {}
        self.stopped: dict[int, str] = {}
        self.reports: dict[int, int] = {}
        self.left_at: dict[int, tuple[str, int]] = {}

    def members(self) -> list[Member] | None:
        while self.coming and len(self.membership.by_trial) < (self.membership.capacity or 0):
            index = min(self.coming)
            self.membership.join(index, self.coming.pop(index), *self.left_at.get(index, (None, 0)))
            self.membership.let_train(index)
        members = self.membership.members(0)
        return None if self.pausing or not members else members

    def resting(self) -> bool:
        return self.pausing

    def left(self, lease_ids: dict[int, int]) -> bool:
        latest = max((steps[-1] for steps in self.heard.values()), default=0)
        self.pausing = self.pausing or self.pause(latest)
        return self.pausing

    def publish(self, boundary: StepReport, lease_ids: dict[int, int]) -> None:
        self.membership.publish(boundary, lease_ids)
        if self.pausing:
            self.left_at = dict(boundary.snapshots)
        self.stopped |= boundary.stopped
        for index in boundary.stopped:
            result = self.membership.by_trial[index].result
            assert result is not None and result.stopped == boundary.stopped[index]  # type: ignore[union-attr]
        self.reports |= {index: int(report["step"]) for index, report in boundary.reports.items()}
        for index in [*boundary.stopped, *boundary.reports]:
            self.membership.leave(index)

    def tell(self, steps: dict[int, tuple[int, dict[str, float]]]) -> None:
        for index, (step, _) in steps.items():
            self.heard.setdefault(index, []).append(step)


def five(rows: Path) -> dict[int, Trial]:
    """Trials on the same rows of which the third hardly learns; the fifth comes later."""
    rates = {1: 5e-3, 2: 8e-3, 3: 1e-6, 4: 1e-2, 5: 5e-3}
    return {
        index: make(rows, lr=rate, steps=20, eval_every=20, warmup_steps=0, max_norm=10.0)
        for index, rate in rates.items()
    }


def trained(base: BaseModel, client: Client, store: CheckpointStore, watched: bool) -> Client:
    """One life of a pack's worker."""
    first = next(iter(client.coming.values()))
    serve(Pack(base, first), client, store, WatchedTrials(5, 2) if watched else None)
    return client


def test_a_trial_that_is_left_behind_gives_its_slot_to_the_next_one_at_once(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    trials = five(rows)
    store = CheckpointStore(str(tmp_path / "train"), "valid/loss", False)
    client = trained(base, Client(trials, 4), store, True)
    assert list(client.stopped) == [3] and client.heard[3][-1] < 20
    assert 3 not in client.reports and client.reports == {1: 20, 2: 20, 4: 20, 5: 20}
    done_before = client.heard[1].index(client.heard[3][-1]) + 1
    assert done_before < 20 and client.heard[5] == list(range(1, 21))
    off = trained(
        base, Client(trials, 4), CheckpointStore(str(tmp_path / "off"), "valid/loss", False), False
    )
    assert off.stopped == {} and off.reports == dict.fromkeys(trials, 20)


@pytest.mark.parametrize("pause_at", [4, 10])
def test_an_interruption_changes_neither_who_stops_nor_when(
    pause_at: int, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    trials = {index: trial for index, trial in five(rows).items() if index < 5}
    calm = trained(
        base, Client(trials, 4), CheckpointStore(str(tmp_path / "calm"), "valid/loss", False), True
    )
    store = CheckpointStore(str(tmp_path / "paused"), "valid/loss", False)
    first = trained(base, Client(trials, 4, lambda step: step >= pause_at), store, True)
    assert first.stopped == {} and len(first.left_at) == 4
    second = Client(trials, 4)
    second.left_at = first.left_at
    again = CheckpointStore(store.place, "valid/loss", False)
    trained(base, second, again, True)
    assert second.stopped == calm.stopped and calm.stopped
    assert second.heard[3][-1] == calm.heard[3][-1]
