"""A fleet's command before and between its rounds: what it measures, and how many train at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.fleet import build_fleet
from orchestrator.evaluation import device_preflight
from orchestrator.fleet import fleet_plan
from orchestrator.fleet.command import FleetCommand
from orchestrator.plan.fewer_slots import with_fewer_slots
from orchestrator.sweep import fleet_round
from tests.support.fleets import as_setting, write_task
from tests.support.trials import SHORT_SWEEP


@pytest.fixture
def command(base: BaseModel, cache: Path, tmp_path: Path, monkeypatch: Any) -> FleetCommand:
    """The command of two tasks of three trials each, with all that it asks of theirs."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    tasks: dict[str, dict[str, object]] = {
        name: {"folder": str(write_task(tmp_path / name, shift))}
        for shift, name in enumerate(("one", "two"))
    }
    typed = ["model=tiny", "train.max_length=128", *SHORT_SWEEP, as_setting(tasks)]
    typed += [f"storage={tmp_path / 'outputs'}"]
    fleet = fleet_plan.make(build_fleet(compose(typed, None), typed_settings(typed)), False)
    made = FleetCommand(fleet, typed)
    made.commands = {
        number: SimpleNamespace(plan=plan, has_result=lambda: False)  # type: ignore[misc]
        for number, plan in fleet.plans.items()
    }
    return made


def test_a_round_after_a_lack_of_memory_has_fewer_slots(
    command: FleetCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = []

    def trained(name: str, states: Any, weights: Any, resources: Any, *others: Any) -> Any:
        slots.append(resources.concurrent)
        return {}

    monkeypatch.setattr(fleet_round, "train_together", trained)
    state = SimpleNamespace(total=lambda: 3, pack_rejection=None)
    command.train({1: state, 2: state})  # type: ignore[dict-item]
    for task in command.commands.values():
        smaller = with_fewer_slots(task.plan)
        assert smaller is not None
        task.plan = smaller
    command.train({1: state, 2: state})  # type: ignore[dict-item]
    assert slots == [6, 3]


def test_a_device_is_measured_for_all_that_is_to_be_done_and_before_any_thread(
    command: FleetCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def checked(config: Any, base: Any, shipping: Any, say: Any) -> Any:
        measured.append(config.data.name)
        return shipping

    monkeypatch.setattr(device_preflight, "checked", checked)
    folder = command.folder.parent.parent / "sweeps" / command.commands[2].plan.name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}", encoding="utf-8")  # of what was asked for before
    command.commands[1].has_result = lambda: True  # type: ignore[method-assign]
    command.check_devices()
    assert measured == ["two"]


def test_threads_that_ask_at_once_measure_once(
    command: FleetCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    began = []

    def measured(*arguments: Any) -> dict[str, float]:
        began.append(time.monotonic())
        time.sleep(0.2)
        return {"size_mb": 1.0}

    monkeypatch.setattr(device_preflight, "measured", measured)
    plan = command.commands[1].plan
    answers = []

    def ask() -> None:
        assert plan.base is not None
        answers.append(device_preflight.costs_of(plan.config, plan.base, "gguf-q8_0", [], print))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(began) == 1 and answers == [{"size_mb": 1.0}] * 3
