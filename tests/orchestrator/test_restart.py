"""A sweep whose trials do not fit into the memory at once goes on with fewer, at last with one by
itself; without any process.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config import BaseModel
from jobs.workers.pack_worker import abort_reason_of
from jobs.workers.reporting import lacks_memory
from orchestrator.config.compose import compose
from orchestrator.fleet.task_command import TaskCommand
from orchestrator.output.progress import ProgressDisplay
from orchestrator.pipeline import SweepCommand
from orchestrator.plan import planner as planning
from orchestrator.plan.fewer_slots import with_fewer_slots
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import divide
from orchestrator.restart import why_again
from orchestrator.storage.journal import Journal
from orchestrator.storage.paths import sweep_folder
from orchestrator.sweep.state import SweepState
from tests.support.settings import build


@pytest.fixture
def planned(cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))

    def make(*settings: str) -> Plan:
        arguments = ["model=tiny", "+sweep=lora", "data=files", f"data.folder={toy}"]
        arguments += [f"storage={tmp_path}", "sweep.num_trials=8", "train.steps=20"]
        arguments += ["train.eval_every=10", "train.max_length=128", *settings]
        return planning.make(build(compose(arguments, None)))

    return make


def sizes_of(plan: Plan | None) -> list[tuple[int, int]]:
    """Packs and trials at once, from a plan down to the smallest."""
    sizes = []
    while plan is not None:
        sizes.append((plan.resources.packs, plan.resources.concurrent))
        plan = with_fewer_slots(plan)
    return sizes


def test_slots_are_halved_and_at_last_each_trial_is_alone(base: BaseModel, planned: Any) -> None:
    assert sizes_of(planned()) == [(1, 8), (1, 4), (1, 2), (1, 1), (0, 1)]
    assert sizes_of(planned("executor=pack"))[-1] == (1, 1), "the user insists on packs"
    plain = sizes_of(planned("executor=plain", "cluster.num_cpus=1"))
    assert plain[-1] == (0, 1) and all(packs == 0 for packs, _ in plain)


def test_the_slots_of_a_fleet_are_halved_whatever_a_task_has_of_trials(
    base: BaseModel, planned: Any
) -> None:
    plan = planned("executor=pack", "sweep.num_trials=2")
    shared = dataclasses.replace(
        plan, resources=divide(plan.config, 8, plan.resources.nodes, "pack")
    )
    assert sizes_of(shared) == [(1, 8), (1, 4), (1, 2), (1, 1)]


def board_of(plan: Plan, base: BaseModel, notes: list[str]) -> SweepState:
    journal = Journal(sweep_folder(plan.config.storage, plan.name))
    journal.folder.mkdir(parents=True, exist_ok=True)
    screen = ProgressDisplay(8, 20, "valid/loss")
    screen.note = notes.append
    sweep_state = SweepState(plan, base, journal, screen, {})
    for index in (1, 2):
        sweep_state.trial(index)
        sweep_state.started.add(index)
        sweep_state.records[index].state = "interrupted"
    return sweep_state


def test_the_action_is_said_and_noted_on_each_trial_that_it_concerns(
    base: BaseModel, planned: Any
) -> None:
    notes: list[str] = []
    plan = planned()
    sweep_state = board_of(plan, base, notes)
    command = SimpleNamespace(plan=plan, journal=sweep_state.journal, alone=SweepCommand.alone)
    assert why_again(command, sweep_state) is None
    verdict = abort_reason_of(MemoryError("out of memory on one example of 90 tokens"), "/x")
    sweep_state.crowded = verdict.crowded
    assert sweep_state.halted, "nobody is judged by it"
    assert why_again(command, sweep_state) == "out of memory on one example of 90 tokens"
    assert command.plan.resources.concurrent == 4
    (note,) = notes
    assert note.endswith("goes on with 4 slots instead of 8")
    tagged = [
        event.get("trial") for event in sweep_state.journal.events() if event["kind"] == "tags"
    ]
    assert tagged == [1, 2, None]
    sweep_state.interrupted = True
    assert why_again(command, sweep_state) is None, "the user wants it to end"


def test_where_nothing_is_less_the_sweep_fails_with_the_remedy(
    base: BaseModel, planned: Any
) -> None:
    plan = planned("executor=pack", "sweep.max_concurrent=1")
    sweep_state = board_of(plan, base, [])
    sweep_state.crowded = "out of memory"
    assert (
        why_again(
            SimpleNamespace(plan=plan, journal=sweep_state.journal, alone=SweepCommand.alone),
            sweep_state,
        )
        is None
    )
    assert (
        sweep_state.abort_reason is not None
        and "executor=plain would train each trial by itself" in (sweep_state.abort_reason)
    )


def test_a_fleet_is_not_told_to_take_the_executor_that_it_refuses(
    base: BaseModel, planned: Any
) -> None:
    plan = planned("executor=pack", "sweep.max_concurrent=1")
    sweep_state = board_of(plan, base, [])
    sweep_state.crowded = "out of memory"
    command = SimpleNamespace(plan=plan, journal=sweep_state.journal, alone=TaskCommand.alone)
    assert why_again(command, sweep_state) is None
    assert "without data.tasks each task is tuned by itself" in str(sweep_state.abort_reason)


def test_a_trial_that_is_alone_is_told_so(base: BaseModel, planned: Any) -> None:
    alone = planned("executor=plain", "sweep.max_concurrent=1")
    assert board_of(alone, base, []).assignment(alone.trials[0]).alone
    together = planned()
    assert not board_of(together, base, []).assignment(together.trials[0]).alone


@pytest.mark.parametrize(
    ("why", "lacks"),
    [
        ("a worker process (pid 3) was ended by Ray for lack of memory on its machine", True),
        ("out of memory on one example of 90 tokens", True),
        ("the loss is not finite", False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(why: str, lacks: bool) -> None:
    assert lacks_memory(why) is lacks


def test_a_lost_process_goes_on_as_before(base: BaseModel, planned: Any) -> None:
    notes: list[str] = []
    plan = planned()
    sweep_state = board_of(plan, base, notes)
    sweep_state.lost = "a worker process was killed"
    command = SimpleNamespace(plan=plan, journal=sweep_state.journal, alone=SweepCommand.alone)
    assert why_again(command, sweep_state) == "a worker process was killed"
    assert command.plan is plan and "goes on from what is done" in notes[0]
