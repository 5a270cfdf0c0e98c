"""Whose turn it is in a fleet. Each task's sweep is a thread that runs the story of one command
(pipeline.SweepCommand); this lets them train together and be judged one after the other.

Implementation notes
--------------------
The states of a task, and who moves it:

    busy --- run (its thread) ---> waiting --- a round (main thread) ---> busy
    busy --- turn (its thread) --> queued ---- its turn (main thread) --> judging
    judging - end of turn -------> ending ---- run again, after damage -> waiting
    any ----- end (its thread) --> over

- The main thread starts nothing while a task is busy or judging, so all that are ready to train do
  so in one round, and the machine is never shared between training and judging.
- Rounds come before turns: who lacks a checkpoint, or has finalists to train, is waited for by
  nobody for long.
- Signals reach the main thread alone. It tells the states of those who train to stop, and the
  others by KeyboardInterrupt at the next moment at which they wait.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from jobs.workers.coordinator import CoordinatorHandle
from orchestrator.plan.planner import Plan

if TYPE_CHECKING:
    from orchestrator.sweep.fleet_tasks import TaskCallback
    from orchestrator.sweep.state import SweepState

LOOK_SECONDS = 0.2
"""How long a signal may wait for the main thread."""

Round = Callable[[Mapping[int, "SweepState"]], Mapping[int, "TaskCallback"]]
"""Trains the trials of several sweeps, by the numbers of their tasks."""


class Conductor:
    """The turns of all tasks of a fleet, by number."""

    def __init__(self, train: Round) -> None:
        self.train = train
        self.changed = threading.Condition()
        self.states: dict[int, str] = {}
        self.waiting: dict[int, SweepState] = {}
        self.answers: dict[int, TaskCallback | BaseException] = {}
        self.recorders: dict[int, TaskCallback] = {}
        """Who writes down what happens in each task, since its last round."""
        self.in_round: list[SweepState] = []
        self.stopping = False

    def begin(self, number: int) -> None:
        """A task's thread starts."""
        self.set_state(number, "busy")

    def end(self, number: int) -> None:
        """A task's thread has ended."""
        self.set_state(number, "over")

    def set_state(self, number: int, state: str) -> None:
        """Tell all in which state a task is."""
        with self.changed:
            self.states[number] = state
            self.changed.notify_all()

    def conduct(self) -> None:
        """Let rounds and turns follow one another until all tasks are over."""
        while True:
            with self.changed:
                while not self.is_settled():
                    self.changed.wait(LOOK_SECONDS)
                if all(state == "over" for state in self.states.values()):
                    return
                sweep_states, self.waiting = self.waiting, {}
                if not sweep_states:
                    number = next(n for n, state in self.states.items() if state == "queued")
                    self.states[number] = "judging"
                    self.changed.notify_all()
                    continue
            self.round(dict(sorted(sweep_states.items())))

    def is_settled(self) -> bool:
        """Whether something can begin, or all is over."""
        states = set(self.states.values())
        if states & {"busy", "judging"}:
            return False
        return bool(self.waiting) or "queued" in states or states == {"over"}

    def round(self, sweep_states: dict[int, SweepState]) -> None:
        """Train those that wait, and tell each what came out."""
        self.in_round = list(sweep_states.values())
        answers: dict[int, TaskCallback | BaseException] = {}
        try:
            if self.stopping:
                raise KeyboardInterrupt
            answers |= self.train(sweep_states)
        except Exception as error:  # noqa: BLE001  # each task tells its own command of it
            answers |= dict.fromkeys(sweep_states, error)
        except BaseException:  # noqa: BLE001  # a wish to stop, which all tasks hear
            answers |= dict.fromkeys(sweep_states, KeyboardInterrupt())
            self.stopping = True
        finally:
            self.in_round = []
        with self.changed:
            self.answers |= answers
            for number in sweep_states:
                self.states[number] = "busy"
            self.changed.notify_all()

    def stop(self) -> None:
        """Let all end: at a checkpoint who trains, as soon as it looks up who does not."""
        self.stopping = True
        for sweep_state in self.in_round:
            sweep_state.interrupted = True

    def check(self) -> None:
        """Raise KeyboardInterrupt where the command is to end."""
        if self.stopping:
            raise KeyboardInterrupt

    def run(self, number: int, sweep_state: SweepState) -> TaskCallback:
        """Wait until a task's trials have been trained; raises what has ended their round."""
        with self.changed:
            self.waiting[number] = sweep_state
            self.states[number] = "waiting"
            self.changed.notify_all()
            while number not in self.answers:
                self.changed.wait()
            answer = self.answers.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        answer.check = self.check
        self.recorders[number] = answer
        return answer

    @contextlib.contextmanager
    def turn(
        self, number: int, open_coordinator: Callable[[], CoordinatorHandle]
    ) -> Iterator[None]:
        """Have the machine to oneself, to judge a task's winner."""
        with self.changed:
            self.states[number] = "queued"
            self.changed.notify_all()
            while self.states[number] == "queued":
                self.changed.wait(LOOK_SECONDS)
                self.check()
        sweep_state = self.recorders[number].sweep_state
        sweep_state.coordinator = open_coordinator()
        try:
            yield
        finally:
            sweep_state.coordinator = None  # its name is free once the actor is gone
            self.set_state(number, "ending")


class TaskTrainer:
    """Trains one task's trials together with those of others; see runner.Trainer."""

    def __init__(self, conductor: Conductor, number: int) -> None:
        self.conductor = conductor
        self.number = number

    def coordinator_for(self, plan: Plan) -> CoordinatorHandle:
        """None yet: the round opens one for all."""
        return None

    def run(self, sweep_state: SweepState) -> TaskCallback:
        """Run the task's sweep to its end."""
        return self.conductor.run(self.number, sweep_state)
