"""The search space beyond single draws: what is refused, what is skipped, how a longer sweep
continues a shorter one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.search_space import Knob, draw, extremes, grid_size, point
from orchestrator.config.validation import trial_of
from orchestrator.errors import ConfigError
from orchestrator.plan.planner import count_trials, known_trials
from tests.support.settings import build


def space(**knobs: dict[str, Any]) -> str:
    """A search space as it is typed."""
    return f"sweep.space={knobs!r}".replace("'", "")


ICD10 = ("+sweep=lora", "data=icd10")
"""A sweep of two sources, whose mix is searched."""


def problems(*arguments: str) -> list[tuple[str, str]]:
    """What is wrong with a command on the default data."""
    try:
        build(compose(["model=tiny", *arguments], None))
    except ConfigError as error:
        return error.problems
    return []


def searched(count: int, *arguments: str) -> list[dict[str, Any]]:
    """The points of a sweep of `count` trials."""
    config = build(
        compose(["model=tiny", "+sweep=lora", f"sweep.num_trials={count}", *arguments], None)
    )
    return [dataclasses.asdict(trial) for trial in known_trials(config, count_trials(config))]


@pytest.mark.parametrize("arguments", [[], ["data=files", "data.folder=x"], ["seed=3"]])
def test_a_longer_sweep_begins_with_the_shorter_ones_trials(arguments: list[str]) -> None:
    assert searched(12, *arguments)[:6] == searched(6, *arguments)
    assert len(searched(12, *arguments)) == 12


def test_another_seed_draws_other_points() -> None:
    assert all(
        one["optim"] != other["optim"]
        for one, other in zip(searched(6), searched(6, "seed=1"), strict=True)
    )


def test_the_lora_sweep_draws_titles_and_gives_terms_the_rest() -> None:
    for trial in searched(40, "data=icd10"):
        weights = {name: source["weight"] for name, source in trial["data"]["sources"].items()}
        assert weights["titles"] + weights["terms"] == pytest.approx(1)
        assert trial["adapter"]["rank"] in (4, 8, 16, 32)
        assert 5e-5 <= trial["optim"]["lr"] <= 5e-3


def test_an_optional_knob_and_what_follows_it_are_skipped_where_their_setting_is_missing() -> None:
    config = build(compose(["+sweep=lora", "data=files", "data.folder=x"], None))
    assert set(config.sweep.space) == {"lr", "rank"}
    found = problems(
        "+sweep=lora",
        "data=files",
        "data.folder=x",
        "sweep.space.titles.optional=false",
        "sweep.space.terms.optional=false",
    )
    assert [path for path, _ in found] == ["sweep.space.titles.path", "sweep.space.terms.path"]


def test_only_the_knob_whose_setting_is_missing_is_skipped() -> None:
    config = build(
        compose([*ICD10, "~data.sources.terms", "+data.sources.mine={path: x.jsonl}"], None)
    )
    assert set(config.sweep.space) == {"lr", "rank", "titles"}
    config = build(compose([*ICD10, "~data.sources.terms"], None))
    assert config.skipped["titles"] == "it is the only source", (
        "whatever its weight, all rows are drawn from it"
    )
    config = build(compose([*ICD10, "~data.sources.titles"], None))
    assert set(config.sweep.space) == {"lr", "rank"}, "terms has nobody to follow"


@pytest.mark.parametrize(
    "knob",
    [
        Knob(path="x", type="loguniform", low=1e-5, high=3e-3),
        Knob(path="x", type="uniform", low=-1, high=1),
        Knob(path="x", type="uniform", low=0.3, high=0.3),
        Knob(path="x", type="uniform", low=0.1, high=0.95, step=0.2),
        Knob(path="x", type="randint", low=3, high=5),
        Knob(path="x", type="randint", low=3, high=12, step=4),
        Knob(path="x", type="choice", values=["a", 1, 2.5]),
    ],
    ids=lambda knob: f"{knob.type}-{knob.step}",
)
def test_draws_stay_in_range_reach_both_halves_and_keep_to_the_steps(knob: Knob) -> None:
    drawn: list[Any] = [
        point({"k": knob}, seed, index)["x"] for seed in range(20) for index in range(1, 51)
    ]
    if knob.values is not None:
        assert set(drawn) == set(knob.values)
        return
    low, high = knob.low or 0.0, knob.high or 0.0
    assert all(low <= value <= high for value in drawn)
    assert low == high or min(drawn) < (low + high) / 2 < max(drawn)
    if knob.type == "randint":
        assert all(isinstance(value, int) for value in drawn)
    if knob.step is not None:
        steps = {round((value - low) / knob.step, 9) for value in drawn}
        assert steps == set(range(int((high - low) / knob.step + 1e-9) + 1))


def test_points_can_be_read_and_typed() -> None:
    knob = Knob(path="x", type="loguniform", low=1e-6, high=1)
    assert all(
        len(f"{point({'k': knob}, 0, i)['x']:g}".replace(".", "").lstrip("0").split("e")[0]) <= 4
        for i in range(1, 200)
    )


def test_a_linked_knob_follows_by_factor_by_addition_and_by_table() -> None:
    knobs = {
        "rank": Knob(path="adapter.rank", type="choice", values=[4, 8]),
        "alpha": Knob(path="adapter.alpha", type="linked", to="adapter.rank", times=0.5, plus=1),
        "batch": Knob(path="train.batch_size", type="linked", to="adapter.rank", values=[32, 16]),
    }
    tried = {tuple(point(knobs, 0, index).values()) for index in range(1, 50)}
    assert tried == {(4, 3, 32), (8, 5, 16)}
    assert list(point(knobs, 0, 1)) == ["adapter.rank", "adapter.alpha", "train.batch_size"]


def test_a_grid_repeats_itself_only_when_it_is_drawn_with_other_knobs() -> None:
    config = build(
        compose(
            [
                "model=tiny",
                "sweep.num_trials=8",
                space(
                    rank={"path": "adapter.rank", "type": "grid", "values": [4, 8]},
                    lr={"path": "optim.lr", "type": "uniform", "low": 0.001, "high": 0.1},
                ),
            ],
            None,
        )
    )
    trials = known_trials(config, count_trials(config))
    assert [trial.adapter.rank for trial in trials] == [4, 8] * 4
    assert len({trial.optim.lr for trial in trials}) == 8


@pytest.mark.parametrize(
    ("search", "kind"), [("grid", "choice"), ("grid", "grid"), ("random", "grid")]
)
def test_without_a_number_of_trials_every_combination_is_tried_once(search: str, kind: str) -> None:
    typed = space(
        rank={"path": "adapter.rank", "type": kind, "values": [4, 8]},
        schedule={
            "path": "optim.schedule",
            "type": kind,
            "values": ["constant", "cosine", "linear"],
        },
    )
    config = build(compose(["model=tiny", f"sweep.search={search}", typed], None))
    trials = known_trials(config, count_trials(config))
    tried = [(trial.adapter.rank, trial.optim.schedule) for trial in trials]
    assert len(tried) == len(set(tried)) == 6
    assert grid_size({}) == 1


REFUSED = [
    (
        {"path": "adapter.rank", "type": "uniform", "low": 1, "high": 4},
        "adapter.rank must be a whole number",
    ),
    (
        {"path": "adapter.rank", "type": "randint", "low": 0, "high": 4},
        "adapter.rank must be between 1 and 1024, got 0",
    ),
    (
        {"path": "adapter.rank", "type": "randint", "low": 1, "high": 9, "step": 0.5},
        "`step` must be a whole number",
    ),
    (
        {"path": "adapter.rank", "type": "randint", "low": 1.5, "high": 9},
        "`low` and `high` must be whole numbers",
    ),
    (
        {"path": "adapter.rank", "type": "choice", "values": [4, "many"]},
        "adapter.rank must be a whole number, got 'many'",
    ),
    ({"path": "adapter.rank", "type": "choice", "values": []}, "needs `values`"),
    ({"path": "adapter.rank", "type": "choice"}, "needs `values`"),
    ({"path": "optim.lr", "type": "uniform", "low": 1}, "needs `low` and `high`"),
    ({"path": "optim.lr", "type": "uniform", "low": 2, "high": 1}, "must not be above"),
    (
        {"path": "optim.lr", "type": "uniform", "low": 0.1, "high": 2000},
        "optim.lr must be above 0 and below 1000, got 2000",
    ),
    (
        {"path": "optim.lr", "type": "loguniform", "low": 0.1, "high": 1, "step": 0.1},
        "`step` goes with uniform and randint only",
    ),
    ({"path": "optim.lr", "type": "linked"}, "needs `to`"),
    ({"path": "optim.lr", "type": "linked", "to": "optim.lr"}, "is not a searched setting"),
    ({"path": "optim", "type": "choice", "values": [1]}, '"optim" is no setting'),
    (
        {"path": "data.sources.train.path", "type": "choice", "values": ["x.jsonl"]},
        "cannot be searched",
    ),
    ({"path": "train.steps", "type": "choice", "values": [10]}, "cannot be searched"),
    ({"path": "optim.lr", "type": "log", "low": 1, "high": 2}, "is not one of"),
    (
        {"path": "optim.lr", "type": "uniform", "low": 0.1, "high": 1, "stpe": 0.1},
        "no such setting",
    ),
]


@pytest.mark.parametrize(("knob", "expected"), REFUSED, ids=[expected for _, expected in REFUSED])
def test_a_knob_that_no_trial_could_follow_is_refused(knob: dict[str, Any], expected: str) -> None:
    found = problems(space(k=knob))
    assert len(found) == 1, found
    assert found[0][0].startswith("sweep.space.k")
    assert expected in found[0][1]


LINKS = [
    ({"times": -1}, "adapter.alpha must be above 0, got -4"),
    ({"values": [1]}, "needs one value per value of adapter.rank"),
    ({"values": [1, 0]}, "adapter.alpha must be above 0, got 0"),
]


@pytest.mark.parametrize(("link", "expected"), LINKS, ids=[expected for _, expected in LINKS])
def test_a_link_that_leads_out_of_range_is_refused(link: dict[str, Any], expected: str) -> None:
    leader = {"path": "adapter.rank", "type": "choice", "values": [4, 8]}
    found = problems(
        space(a=leader, b=dict(path="adapter.alpha", type="linked", to="adapter.rank", **link))
    )
    assert any(path.startswith("sweep.space.b") and expected in text for path, text in found), found


def test_a_link_to_texts_needs_a_table() -> None:
    leader = {"path": "adapter.kind", "type": "choice", "values": ["lora", "full"]}
    follower = {"path": "optim.lr", "type": "linked", "to": "adapter.kind"}
    assert [path for path, _ in problems(space(a=leader, b=follower))] == ["sweep.space.b.values"]
    assert problems(space(a=leader, b=dict(follower, values=[0.01, 0.0001]))) == []


@pytest.mark.parametrize(
    ("typed", "space"),
    [
        ("{path: optim.lr, type: choice, values: [0.1, 0.2]}", ("choice", [0.1, 0.2], None, None)),
        ("{type: 'grid', values: [0.1]}", ("grid", [0.1], None, None)),
        ("{type: uniform, low: 0.001}", ("uniform", None, 0.001, 5e-3)),
        ("{low: 0.001}", ("loguniform", None, 0.001, 5e-3)),
    ],
)
def test_a_typed_knob_of_another_type_leaves_nothing_of_the_files_behind(
    typed: str, space: tuple[Any, ...]
) -> None:
    knob = build(compose(["+sweep=lora", f"sweep.space.lr={typed}"], None)).sweep.space["lr"]
    assert (knob.type, knob.values, knob.low, knob.high) == space


@pytest.mark.parametrize("typed", ["{type: [1]}", "{type: grid, values: [1], low: 3}"])
def test_what_is_typed_and_does_not_fit_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.space\.lr"):
        build(compose(["+sweep=lora", f"sweep.space.lr={typed}"], None))


def test_one_setting_cannot_be_searched_twice() -> None:
    knob = {"path": "optim.lr", "type": "choice", "values": [0.1]}
    assert problems(space(a=knob, b=knob)) == [
        ("sweep.space.b.path", "optim.lr is searched twice, also by sweep.space.a")
    ]


def test_every_draw_lies_between_the_extremes_that_are_checked() -> None:
    import random

    for knob in (
        Knob(path="x", type="uniform", low=0, high=1, step=0.3),
        Knob(path="x", type="loguniform", low=1e-4, high=1),
    ):
        ends: list[Any] = extremes(knob, {"k": knob})
        drawn: list[Any] = [draw(knob, random.Random(i)) for i in range(200)]
        assert min(ends) <= min(drawn) <= max(drawn) <= max(ends)


def test_a_trial_holds_the_point_and_leaves_the_rest_as_it_was() -> None:
    config = build(compose(["model=tiny", "optim.beta1=0.8"], None))
    trial = trial_of(config, 3, {"optim.lr": 0.5, "data.sources.train.weight": 0.25})
    assert (trial.index, trial.optim.lr, trial.optim.beta1, trial.data.sources["train"].weight) == (
        3,
        0.5,
        0.8,
        0.25,
    )
    assert config.optim.lr != 0.5
    with pytest.raises(ConfigError, match="optim.lr"):
        trial_of(config, 1, {"optim.lr": -1})
