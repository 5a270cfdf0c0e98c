"""Turns in a fleet: who is ready trains together, judgements follow one another, and a wish to stop
reaches everyone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.fleet.conductor import Conductor


class Fleet:
    """Threads of tasks, and what has happened in which order."""

    def __init__(self, *tasks: Callable[[Fleet, int], None]) -> None:
        self.rounds: list[list[int]] = []
        self.events: list[str] = []
        self.fails: dict[int, BaseException] = {}
        self.conductor = Conductor(self.train)
        self.ends: dict[int, BaseException | None] = {}
        self.threads = [
            threading.Thread(target=self.task, args=(number, story), daemon=True)
            for number, story in enumerate(tasks, start=1)
        ]
        for number in range(1, len(tasks) + 1):
            self.conductor.begin(number)

    def task(self, number: int, story: Callable[[Fleet, int], None]) -> None:
        self.ends[number] = None
        try:
            story(self, number)
        except BaseException as error:
            self.ends[number] = error
        finally:
            self.conductor.end(number)

    def train(self, sweep_states: Mapping[int, Any]) -> dict[int, Any]:
        self.rounds.append(list(sweep_states))
        if len(self.rounds) in self.fails:
            raise self.fails[len(self.rounds)]
        return {
            number: SimpleNamespace(sweep_state=sweep_state)
            for number, sweep_state in sweep_states.items()
        }

    def conduct(self) -> Fleet:
        for thread in self.threads:
            thread.start()
        self.conductor.conduct()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        return self


def sweep_state() -> Any:
    return SimpleNamespace(interrupted=False, coordinator=None)


def story(rounds: int) -> Callable[[Fleet, int], None]:
    """So many rounds of training, then the judgement."""

    def told(fleet: Fleet, number: int) -> None:
        for _ in range(rounds):
            fleet.conductor.run(number, sweep_state())
        with fleet.conductor.turn(number, lambda: "coordinator"):
            fleet.events.append(f"begin {number}")
            fleet.events.append(f"end {number}")

    return told


def test_all_that_are_ready_train_in_one_round_and_are_judged_one_by_one() -> None:
    fleet = Fleet(story(1), story(1), story(1)).conduct()
    assert fleet.rounds == [[1, 2, 3]]
    pairs = list(zip(fleet.events[::2], fleet.events[1::2], strict=True))
    assert sorted(pairs) == [(f"begin {n}", f"end {n}") for n in (1, 2, 3)]
    assert set(fleet.ends.values()) == {None}


def test_finalists_of_some_train_before_anyone_is_judged() -> None:
    fleet = Fleet(story(2), story(1), story(2)).conduct()
    assert fleet.rounds == [[1, 2, 3], [1, 3]]


def test_a_task_that_ends_early_keeps_nobody_waiting() -> None:
    def broken(fleet: Fleet, number: int) -> None:
        raise ValueError("bad rows")

    fleet = Fleet(broken, story(1)).conduct()
    assert fleet.rounds == [[2]]
    assert isinstance(fleet.ends[1], ValueError) and fleet.ends[2] is None


def test_what_ends_a_round_is_told_to_all_that_were_in_it() -> None:
    fleet = Fleet(story(1), story(1))
    fleet.fails[1] = RuntimeError("the cluster is gone")
    fleet.conduct()
    assert [str(error) for error in fleet.ends.values()] == ["the cluster is gone"] * 2


def test_a_wish_to_stop_reaches_those_who_train_and_those_who_wait() -> None:
    seen = []

    def trains(fleet: Fleet, number: int) -> None:
        state = sweep_state()
        fleet.conductor.run(number, state)
        seen.append(state.interrupted)
        fleet.conductor.check()

    fleet = Fleet(trains, story(1))
    asked = fleet.conductor.train

    def round_with_a_wish(sweep_states: Mapping[int, Any]) -> Mapping[int, Any]:
        fleet.conductor.stop()
        return asked(sweep_states)

    fleet.conductor.train = round_with_a_wish
    fleet.conduct()
    assert seen == [True]
    assert all(isinstance(error, KeyboardInterrupt) for error in fleet.ends.values())


def test_the_judges_coordinator_is_let_go_after_the_turn() -> None:
    states = []

    def judged(fleet: Fleet, number: int) -> None:
        state = sweep_state()
        fleet.conductor.run(number, state)
        with fleet.conductor.turn(number, lambda: "coordinator"):
            states.append(state.coordinator)
        states.append(state.coordinator)

    Fleet(judged).conduct()
    assert states == ["coordinator", None]


def test_a_task_may_train_again_after_its_judgement_met_damage() -> None:
    def damaged(fleet: Fleet, number: int) -> None:
        for attempt in range(2):
            fleet.conductor.run(number, sweep_state())
            with pytest.raises(OSError), fleet.conductor.turn(number, lambda: None):
                raise OSError(f"damaged {attempt}")

    fleet = Fleet(damaged, story(1)).conduct()
    assert fleet.rounds == [[1, 2], [1]]
    assert set(fleet.ends.values()) == {None}
