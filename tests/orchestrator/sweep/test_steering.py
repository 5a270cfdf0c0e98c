"""Requests to a running sweep, without any process: what is accepted, what is refused, and what the
next start makes of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError, InputError
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan import copies
from orchestrator.plan import planner as planning
from orchestrator.storage import requests
from orchestrator.storage.journal import Journal
from orchestrator.storage.journal_reader import History
from orchestrator.storage.paths import sweep_folder
from orchestrator.sweep.state import SweepState
from tests.support.settings import build


class Sweep:
    """A sweep of four trials, of which two have started."""

    def __init__(self, toy: Path, storage: Path, base: BaseModel) -> None:
        settings = ["+sweep=lora", "model=tiny", "data=files", f"data.folder={toy}"]
        settings += [f"storage={storage}", "train.max_length=128", "sweep.num_trials=4"]
        self.config = build(compose([*settings, "train.steps=60", "train.eval_every=20"], None))
        self.plan, self.base = planning.make(self.config), base
        self.journal = Journal(sweep_folder(str(storage), self.plan.name))
        self.journal.folder.mkdir(parents=True)
        for index in (1, 2):
            point = {"optim.lr": 0.001 * index, "adapter.rank": 8}
            self.journal.append("trial", trial=index, point=point)

    def sweep_state(self) -> SweepState:
        screen = ProgressDisplay(4, 60, "valid/exact_match")
        sweep_state = SweepState(self.plan, self.base, self.journal, screen, {})
        sweep_state.started |= {1, 2}
        return sweep_state

    def ask(
        self, sweep_state: SweepState, action: str, trial: int, **settings: Any
    ) -> dict[str, Any]:
        named = {path.replace("__", "."): value for path, value in settings.items()}
        request = requests.ask(str(self.journal.folder), action, trial, named)
        sweep_state.steering.look(sweep_state, at_once=True)
        assert requests.waiting(str(self.journal.folder)) == []
        (answer,) = (
            event
            for event in self.journal.events()
            if event["kind"] == "request" and event["id"] == request["id"]
        )
        return answer


@pytest.fixture
def sweep(base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: Any) -> Sweep:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return Sweep(toy, tmp_path, base)


def test_a_dropped_trial_stays_dropped_at_the_next_start(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    assert sweep.ask(sweep_state, "drop", 2)["state"] == "accepted"
    assert sweep_state.steering.is_over(2, 20, 0)
    assert not sweep_state.steering.is_over(1, 20, 0)
    again = sweep.sweep_state()
    assert 2 in again.steering.dropped
    assert not again.steering.is_over(2, 10, 20)  # what it had reported counts again
    assert again.steering.is_over(2, 20, 20)
    refused = sweep.ask(again, "drop", 2)
    assert (refused["state"], refused["text"]) == ("refused", "trial 2 is dropped already")


def test_what_cannot_be_dropped_is_refused_with_the_reason(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    assert "there is no trial 9: the sweep has 4" in sweep.ask(sweep_state, "drop", 9)["text"]
    sweep.journal.append("end", trial=1, state="finished", error=None)
    ended = sweep.sweep_state()
    ended.started = {2}
    assert sweep.ask(ended, "drop", 1)["text"] == "trial 1 has ended: finished"
    assert sweep.ask(ended, "drop", 4)["state"] == "accepted"  # it has not started yet


def test_a_copy_has_the_next_number_and_keeps_it(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    answer = sweep.ask(sweep_state, "clone", 1, adapter__rank=16)
    assert (answer["state"], answer["trial"], answer["of"]) == ("accepted", 5, 1)
    assert answer["point"] == {"optim.lr": 0.001, "adapter.rank": 16}
    again = sweep.sweep_state()
    assert again.total() == 5 and again.belongs(5) and again.extra_copies() == [5]
    trial = again.trial(5)
    assert (trial.adapter.rank, trial.optim.lr) == (16, 0.001)
    assert sweep.ask(again, "clone", 5, optim__lr=0.5)["trial"] == 6
    history = History(sweep.journal.folder)
    sweep.journal.append("sweep", params={"sweep.num_trials": 4})
    history.update()
    assert history.num_trials() == 6


def test_a_copy_with_settings_that_exist_is_refused(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    refused = sweep.ask(sweep_state, "clone", 1, optim__lr=0.002)
    assert refused["state"] == "refused"
    assert refused["text"].startswith("trial 2 has exactly these settings already")
    sweep.ask(sweep_state, "clone", 1, optim__lr=0.003)
    twice = sweep.ask(sweep_state, "clone", 2, optim__lr=0.003)
    assert twice["text"].startswith("trial 5 has exactly these settings already")


def test_a_value_outside_its_setting_is_refused_in_the_configurations_words(sweep: Sweep) -> None:
    text = sweep.ask(sweep.sweep_state(), "clone", 1, adapter__rank=0)["text"]
    with pytest.raises(ConfigError) as raised:
        build(compose(["adapter.rank=0"], None))
    assert raised.value.problems[0][1] in text and "adapter.rank" in text


def test_a_copy_cannot_change_what_a_pack_shares(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    assert sweep_state.packed
    text = sweep.ask(sweep_state, "clone", 1, adapter__layers=0.5)["text"]
    assert "adapter.layers is shared by all trials of this sweep's packs" in text


def test_nothing_changes_once_the_training_is_over(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    sweep_state.steering.closed = True
    assert "is over" in sweep.ask(sweep_state, "clone", 1, optim__lr=0.01)["text"]


def test_an_interrupted_sweep_leaves_requests_for_the_next_start(sweep: Sweep) -> None:
    sweep_state = sweep.sweep_state()
    sweep_state.interrupted = True
    requests.ask(str(sweep.journal.folder), "drop", 1)
    sweep_state.steering.look(sweep_state, at_once=True)
    assert len(requests.waiting(str(sweep.journal.folder))) == 1
    again = sweep.sweep_state()
    again.steering.look(again, at_once=True)
    assert 1 in again.steering.dropped


def test_files_that_are_no_requests_are_left_alone(sweep: Sweep) -> None:
    folder = sweep.journal.folder / requests.FOLDER
    folder.mkdir()
    texts = [
        "",
        "[]",
        '{"id": "x", "action": "explode", "trial": 1}',
        '{"id": "../y", "action": "drop", "trial": 1}',
    ]
    for number, text in enumerate(texts):
        (folder / f"{number}.json").write_text(text)
    sweep_state = sweep.sweep_state()
    sweep_state.steering.look(sweep_state, at_once=True)
    assert len(list(folder.iterdir())) == 4 and not sweep_state.steering.dropped


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["lr"], "write it as KNOB=VALUE"),
        (["optim.lrr=1"], "no such setting; did you mean optim.lr?"),
        (["train.steps=5"], "cannot be changed in a copy"),
        (["lr=1", "optim.lr=2"], "is given twice"),
    ],
)
def test_settings_are_read_as_typed(sweep: Sweep, typed: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        copies.read_settings(sweep.config, typed)
    assert message in str(raised.value)


def test_a_knob_may_be_called_by_its_name_and_numbers_in_any_notation(sweep: Sweep) -> None:
    read = copies.read_settings(
        sweep.config, ["lr=3e-4", "adapter.rank=16", "optim.schedule=linear"]
    )
    assert read == {"optim.lr": 0.0003, "adapter.rank": 16, "optim.schedule": "linear"}


def test_what_follows_a_changed_knob_changes_with_it(sweep: Sweep) -> None:
    settings = [
        "+sweep=lora",
        "model=tiny",
        f"data.folder={sweep.config.data.folder}",
        "data=files",
    ]
    alpha = "+sweep.space.alpha={path: adapter.alpha, type: linked, to: adapter.rank, times: 2}"
    config = build(compose([*settings, alpha, f"storage={sweep.config.storage}"], None))
    points = {1: {"optim.lr": 0.001, "adapter.rank": 8, "adapter.alpha": 16.0}}
    point = copies.copy_point(config, points, 1, {"adapter.rank": 32}, packed=True)
    assert json.loads(json.dumps(point)) == {
        "optim.lr": 0.001,
        "adapter.rank": 32,
        "adapter.alpha": 64,
    }
