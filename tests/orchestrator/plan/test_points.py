"""No two trials of a sweep are alike, whatever the space; what the last screen and the version tell
is what was trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.config.search_space import Knob
from orchestrator.errors import ConfigError
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan import planner as planning
from orchestrator.plan.points import Points, first_points, key, size
from orchestrator.storage.journal import Journal, Record
from orchestrator.sweep.sampler import Sampler
from orchestrator.sweep.state import SweepState
from tests.support.settings import build


def choice(path: str, *values: Any) -> Knob:
    return Knob(path=path, type="choice", values=list(values))


TWO = choice("adapter.rank", 4, 8)
LINKED = Knob(path="adapter.alpha", type="linked", to="adapter.rank", times=2)
SPACES: dict[str, tuple[dict[str, Knob], int]] = {
    "two values": ({"a": TWO}, 2),
    "a value that is meant to be drawn more often": ({"a": choice("adapter.rank", 4, 4, 4, 8)}, 2),
    "two knobs": ({"a": TWO, "b": choice("optim.schedule", "constant", "cosine", "linear")}, 6),
    "a linked knob adds nothing": ({"a": TWO, "b": LINKED}, 2),
    "whole numbers": ({"a": Knob(path="adapter.rank", type="randint", low=3, high=9)}, 7),
    "whole numbers in steps": (
        {"a": Knob(path="adapter.rank", type="randint", low=4, high=17, step=4)},
        4,
    ),
    "steps": ({"a": Knob(path="optim.weight_decay", type="uniform", low=0, high=0.3, step=0.1)}, 4),
    "one number": ({"a": Knob(path="optim.lr", type="uniform", low=0.1, high=0.1)}, 1),
    "a narrow range": ({"a": Knob(path="optim.lr", type="uniform", low=0.1, high=0.1003)}, 4),
    "a narrow range of a logarithm": (
        {"a": Knob(path="optim.lr", type="loguniform", low=0.1, high=0.1003)},
        4,
    ),
    "a grid with draws": (
        {
            "a": Knob(path="adapter.rank", type="grid", values=[4, 8, 16]),
            "b": choice("train.batch_size", 8, 16),
        },
        6,
    ),
    "a seed": ({"a": TWO, "b": Knob(path="seed", type="randint", low=0, high=2)}, 6),
    "nothing": ({}, 1),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", range(3))
def test_a_space_is_tried_whole_and_no_point_twice(name: str, seed: int) -> None:
    space, count = SPACES[name]
    assert size(space) == count
    points = Points(space, seed)
    assert len({key(points[index]) for index in range(1, count + 1)}) == count
    again = Points(space, seed)
    assert [again[index] for index in range(1, count + 1)] == [
        points[index] for index in range(1, count + 1)
    ]
    with pytest.raises(ValueError, match=f"holds {count} different points"):
        points[count + 1]


def test_a_range_of_many_values_is_endless_and_its_points_differ() -> None:
    space = {"a": Knob(path="optim.lr", type="loguniform", low=1e-4, high=1e-2), "b": TWO}
    assert size(space) == float("inf")
    points = Points(space, 0)
    assert len({key(points[index]) for index in range(1, 3000)}) == 2999


def test_more_trials_than_a_range_that_seems_endless_holds_are_refused() -> None:
    space = {"a": Knob(path="optim.lr", type="loguniform", low=1e-3, high=5e-2)}
    assert size(space) == float("inf")
    with pytest.raises(ConfigError, match="20,000 is too many: the search space holds [0-9]+ diff"):
        first_points(space, 0, 20_000)


def test_many_trials_on_a_space_that_just_holds_them_are_found_in_time() -> None:
    points = Points({"a": Knob(path="train.batch_size", type="randint", low=1, high=20_000)}, 0)
    assert len({key(points[index]) for index in range(1, 20_001)}) == 20_000


def knobs(**found: Knob) -> str:
    plain = vars(Knob(path="optim.lr", type="choice", values=[1]))
    typed = {
        name: {
            key: value
            for key, value in vars(knob).items()
            if key in ("path", "type", "values") or value != plain[key]
        }
        for name, knob in found.items()
    }
    typed = {
        name: {key: value for key, value in knob.items() if value is not None}
        for name, knob in typed.items()
    }
    return f"sweep.space={json.dumps(typed)}".replace('"', "")


@pytest.fixture
def plan(base: BaseModel, cache: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    data = ["model=tiny", "data=files", f"data.folder={toy}"]
    return lambda *arguments: planning.make(build(compose([*data, *arguments], None)))


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_more_trials_than_the_space_holds_are_not_run_and_the_plan_says_so(
    plan: Any, search: str
) -> None:
    made = plan(knobs(a=TWO), "sweep.num_trials=6", f"sweep.search={search}")
    assert made.num_trials == 2
    assert (
        "sweep.num_trials=6, but the search space holds no more than 2 different trials: 2 are run"
        in made.notes
    )
    assert not planning.has(made.config, 4), "nor does the last screen offer more"
    assert not any("num_trials" in note for note in plan(knobs(a=TWO), "sweep.num_trials=2").notes)
    if search == "random":
        assert {trial.adapter.rank for trial in made.trials} == {4, 8}


def test_trials_that_differ_in_what_has_no_effect_are_named(plan: Any) -> None:
    kinds = knobs(
        a=Knob(path="adapter.kind", type="grid", values=["lora", "full"]),
        b=Knob(path="adapter.rank", type="grid", values=[4, 8]),
    )
    said = "trials 3, 4 compute the same: they differ in settings that have no effect together"
    assert [note for note in plan(kinds).notes if "compute the same" in note] == [said]
    weights = knobs(a=Knob(path="data.sources.train.weight", type="grid", values=[0.5, 1, 2]))
    with pytest.raises(ConfigError, match="changes nothing: it is the only source"):
        plan(weights)
    shares = Knob(path="optim.decay_share", type="grid", values=[0.1, 0.2])
    with pytest.raises(ConfigError, match="optim.decay_share"):
        plan(knobs(a=shares), "optim.schedule=constant")
    assert not any("compute the same" in note for note in plan(knobs(a=shares)).notes)


def config_of(count: int, *found: str) -> Any:
    return build(
        compose(["model=tiny", "sweep.search=optuna", f"sweep.num_trials={count}", *found], None)
    )


def test_optuna_proposes_no_point_twice_nor_one_of_an_earlier_run() -> None:
    config = config_of(6, knobs(a=TWO, b=choice("train.batch_size", 8, 16, 32)))
    known: dict[int, Record] = {}
    for number in range(1, 7):
        search = Sampler(config, 6, dict(known))
        known[number] = Record(
            number, search.next_point(number), {10: {"valid/exact_match": number / 10}}, "finished"
        )
    once = Sampler(config, 6, {})
    proposed = {}
    for number in range(1, 7):
        proposed[number] = once.next_point(number)
        once.ended(number, number / 10)
    for points in (proposed.values(), [record.point for record in known.values()]):
        assert len({key(point) for point in points}) == 6
    with pytest.raises(ValueError, match="holds 6 different points"):
        Sampler(config, 7, known).next_point(7)


def test_a_search_that_begins_again_hands_out_the_same_points() -> None:
    config = config_of(4, knobs(a=TWO, b=choice("train.batch_size", 8, 16)))
    search = Sampler(config, 4, {})
    first = [search.next_point(number) for number in range(1, 5)]
    for number in range(1, 5):
        search.ended(number, None)  # the packs do not fit this model
    assert [search.next_point(number) for number in range(1, 5)] == first
    search.ended(1, 0.5)
    told = [trial.value for trial in search._optuna._study.trials if trial.value is not None]  # type: ignore[union-attr]
    assert told == [0.5]


def board_of(made: planning.Plan, folder: Path) -> SweepState:
    assert made.base is not None
    return SweepState(
        made,
        made.base,
        Journal(folder),
        ProgressDisplay(made.num_trials, 10, "valid/exact_match"),
        {},
    )


def test_the_best_trial_is_one_that_is_asked_for_although_an_earlier_run_had_more(
    plan: Any, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    for index, score in enumerate([0.1, 0.4, 0.2, 0.9], start=1):
        journal.append("trial", trial=index, point={"adapter.rank": 4 * index}, params={})
        journal.append(
            "report", trial=index, step=10, metrics={"valid/exact_match": score, "valid/loss": 1.0}
        )
        journal.append("end", trial=index, state="finished", error=None)
    ranks = knobs(a=Knob(path="adapter.rank", type="randint", low=1, high=64))
    for count, expected in ((4, 4), (3, 2), (1, 1)):
        best = board_of(plan(ranks, f"sweep.num_trials={count}"), tmp_path).best()
        assert best is not None and best.index == expected


@pytest.mark.parametrize("search", ["optuna", "random"])
def test_the_settings_that_are_told_are_those_that_the_journal_has(
    plan: Any, tmp_path: Path, search: str
) -> None:
    space = knobs(a=Knob(path="optim.lr", type="loguniform", low=1e-4, high=1e-1))
    sweep_state = board_of(plan(space, "sweep.num_trials=4", f"sweep.search={search}"), tmp_path)
    for index in range(1, 5):
        started = sweep_state.trial(index)
        sweep_state.journal.append(
            "trial", trial=index, point=sweep_state.records[index].point, params={}
        )
        sweep_state.search.ended(index, 0.1 * index)
        for known in (sweep_state, board_of(sweep_state.plan, tmp_path)):
            assert known.trained(index) == started, "asked again, in this run or in a later one"
        assert sweep_state.records[index].point == {"optim.lr": started.optim.lr}
