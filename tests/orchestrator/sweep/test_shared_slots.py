"""Seats that tasks share: by weight where several want one, and to whoever wants one else."""

from __future__ import annotations

from collections import Counter

from orchestrator.sweep.shared_slots import SharedSlots


class Task:
    """A task with so many trials to start."""

    def __init__(self, waiting: int) -> None:
        self.slots_taken: set[int] = set()
        self.waiting = waiting

    def sit(self) -> None:
        self.slots_taken.add(len(self.slots_taken) + 1000 * self.waiting)
        self.waiting -= 1


def shared(capacity: int, *tasks: tuple[Task, float]) -> SharedSlots:
    slots = SharedSlots("fleet", capacity)
    for number, (task, weight) in enumerate(tasks, start=1):
        slots.add(number, task, weight, lambda task=task: task.waiting > 0)
    return slots


def fill(slots: SharedSlots, tasks: list[Task]) -> Counter[int]:
    """Seat whoever may sit, until nobody may; how many of each task sit."""
    while True:
        ready = [
            place
            for place in slots.in_turn()
            if tasks[place].waiting and not slots.full(tasks[place])
        ]
        if not ready:
            return Counter({place: len(task.slots_taken) for place, task in enumerate(tasks)})
        tasks[ready[0]].sit()


def test_tasks_of_one_weight_have_as_many_seats() -> None:
    tasks = [Task(20), Task(20), Task(20)]
    assert fill(shared(12, *((task, 1.0) for task in tasks)), tasks) == {0: 4, 1: 4, 2: 4}


def test_seats_follow_the_weights() -> None:
    tasks = [Task(20), Task(20)]
    assert fill(shared(12, (tasks[0], 3.0), (tasks[1], 1.0)), tasks) == {0: 9, 1: 3}


def test_the_least_weight_has_a_seat() -> None:
    tasks = [Task(20), Task(20)]
    assert fill(shared(4, (tasks[0], 100.0), (tasks[1], 1.0)), tasks) == {0: 3, 1: 1}


def test_no_seat_stays_empty_that_another_task_could_use() -> None:
    tasks = [Task(2), Task(20), Task(0)]
    assert fill(shared(12, *((task, 1.0) for task in tasks)), tasks) == {0: 2, 1: 10, 2: 0}


def test_a_seat_that_becomes_free_goes_to_whoever_has_fewest() -> None:
    tasks = [Task(20), Task(20)]
    slots = shared(6, *((task, 1.0) for task in tasks))
    fill(slots, tasks)
    tasks[1].slots_taken.pop()
    tasks[1].slots_taken.pop()
    assert slots.full(tasks[0]) and not slots.full(tasks[1])
    tasks[1].waiting = 0
    assert not slots.full(tasks[0]), "the other one has none to start"


def test_a_task_knows_its_number_in_the_fleet() -> None:
    tasks = [Task(1), Task(1)]
    slots = SharedSlots("fleet", 2)
    slots.add(3, tasks[0], 1.0, lambda: True)
    slots.add(7, tasks[1], 1.0, lambda: True)
    assert (slots.number_of(tasks[0]), slots.number_of(tasks[1])) == (3, 7)
