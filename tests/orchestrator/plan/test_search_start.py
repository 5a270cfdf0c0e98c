"""Where a search begins: ranges from base, rows and steps, the first trials at the centre, and what
earlier sweeps have found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.machine import speed as measurement
from jobs.machine.speed import MachineSpeed
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.search_space import Knob, point
from orchestrator.errors import ConfigError
from orchestrator.output.plan_text import plan_text
from orchestrator.plan import planner as planning
from orchestrator.plan import ranks, sizing
from orchestrator.plan.planner import Plan
from orchestrator.plan.ranks import worth_searching
from orchestrator.plan.resources import count_cpus
from orchestrator.storage.paths import sweep_folder
from orchestrator.sweep.sampler import Sampler
from tests.support.settings import build

SIZES = ("sweep.num_trials=5", "train.steps=40")


class Planner:
    """Plans on the tiny model and the toy data, with sweeps that earlier commands have left."""

    def __init__(self, toy: Path, storage: Path) -> None:
        self.storage = storage
        self.fixed = ["model=tiny", "data=files", f"data.folder={toy}", f"storage={storage}"]

    def plan(self, *arguments: str) -> Plan:
        """The plan of a command line."""
        typed = [*self.fixed, *arguments]
        return planning.make(build(compose(typed, None), typed_settings(typed)))

    def begun(self, *arguments: str) -> Plan:
        """The same, kept as the command keeps it when it begins."""
        made = self.plan(*arguments)
        folder = sweep_folder(made.config.storage, made.name)
        folder.mkdir(parents=True, exist_ok=True)
        sizing.keep_choices(folder, made.config, made.start.found)
        return made

    def earlier(
        self, name: str, scores: dict[int, tuple[float, float, int]], **changes: Any
    ) -> None:
        """A sweep of these rows and this base, by trial: score, learning rate, rank."""
        made = self.plan("+sweep=lora", *SIZES)
        digests = {**made.digests, **changes.get("digests", {})}
        assert made.base is not None
        base = changes.get("base", made.base.revision[:12])
        contexts = {"valid": "validation", "test": "test"}
        events: list[dict[str, Any]] = [
            {
                "kind": "sweep",
                "params": {},
                "tags": {"base": f"tiny@{base}"},
                "datasets": [
                    {"context": contexts.get(split, "training"), "digest": digest}
                    for split, digest in digests.items()
                ],
            }
        ]
        metric = changes.get("metric", made.config.sweep.metric)
        for index, (score, rate, rank) in scores.items():
            values = {"optim.lr": rate, "adapter.rank": rank}
            events += [
                {"kind": "trial", "trial": index, "point": {}, "params": values},
                {"kind": "report", "trial": index, "step": 10, "metrics": {metric: score}},
                {"kind": "end", "trial": index, "state": changes.get("state", "finished")},
            ]
        folder = self.storage / "sweeps" / name
        folder.mkdir(parents=True)
        lines = [json.dumps({"t": 1000, **event}) for event in events]
        (folder / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def planner(ready: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(ready))
    threads = count_cpus(build(compose(["model=tiny"], None)))
    measurement.keep(MachineSpeed({"float32": 1e11, "bfloat16": 1e9}, 1.1, threads))
    return Planner(toy, tmp_path / "outputs")


def points(plan: Plan) -> list[tuple[float, int]]:
    """Learning rate and rank of each trial."""
    return [(trial.optim.lr, trial.adapter.rank) for trial in plan.trials]


def test_the_first_trial_is_at_the_centre_and_the_next_ones_beside_it(planner: Planner) -> None:
    made = planner.plan("+sweep=lora", *SIZES)
    rates, rank = made.config.sweep.space["lr"], made.config.sweep.space["rank"]
    low, high = rates.low or 0.0, rates.high or 0.0
    centre = made.trials[0].optim.lr
    assert low * 8 == pytest.approx(centre, rel=0.06) == high / 4
    assert [rate for rate, _ in points(made)[1:3]] == pytest.approx(
        [centre / 2, centre * 2], rel=0.06
    )
    assert made.trials[0].adapter.rank == ranks.middle(rank.values)  # type: ignore[arg-type]
    assert len(set(points(made))) == 5 and all(low <= rate <= high for rate, _ in points(made))
    assert "known to be good" in plan_text(made)


@pytest.mark.parametrize(
    "typed",
    [
        ("sweep.space.lr.low=5.0e-5", "sweep.space.lr.high=5.0e-3"),
        ("sweep.space.rank.values=[4,8,16,32]",),
    ],
)
def test_what_is_typed_as_it_stands_in_the_files_is_chosen_and_makes_another_sweep(
    planner: Planner, typed: tuple[str, ...]
) -> None:
    usual = planner.begun("+sweep=lora", *SIZES)
    made = planner.begun("+sweep=lora", *SIZES, *typed)
    assert made.name != usual.name and planner.plan("+sweep=lora", *SIZES).name == usual.name
    again = planner.plan("+sweep=lora", *SIZES, *typed)
    rates, rank = again.config.sweep.space["lr"], again.config.sweep.space["rank"]
    assert again.name == made.name and again.trials == made.trials
    if "rank" in typed[0]:
        assert rank.values == [4, 8, 16, 32]
    else:
        assert (rates.low, rates.high) == (5e-5, 5e-3)


def test_the_printed_settings_give_the_same_trials(planner: Planner) -> None:
    made = planner.plan("+sweep=lora", *SIZES)
    again = planner.plan("+sweep=lora", *SIZES, *made.start.settings())
    assert points(again) == points(made) and len(made.start.settings()) == 5


def test_a_longer_or_wider_sweep_keeps_its_points(planner: Planner) -> None:
    steady = ("+sweep=lora", "optim.schedule=constant")
    first = planner.begun(*steady, *SIZES)
    longer = planner.plan(*steady, "sweep.num_trials=8", "train.steps=2000")
    assert longer.name == first.name
    assert points(longer)[:5] == points(first)
    anew = planner.plan(*steady, "sweep.num_trials=8", "train.steps=2000", "fresh=true")
    assert points(anew)[0][0] < points(first)[0][0], "a long run wants a lower rate"


def test_a_range_of_ones_own_stays_and_begins_at_the_centre_where_it_holds_it(
    planner: Planner,
) -> None:
    centre = planner.plan("+sweep=lora", *SIZES).trials[0].optim.lr
    wide = ("sweep.space.lr.low=1e-4", "sweep.space.lr.high=0.05", "sweep.space.rank.values=[3,5]")
    made = planner.plan("+sweep=lora", *SIZES, *wide)
    knob = made.config.sweep.space["lr"]
    assert (knob.low, knob.high, made.trials[0].optim.lr) == (1e-4, 0.05, centre)
    assert made.config.sweep.space["rank"].values == [3, 5] and made.trials[0].adapter.rank == 5
    low = ("sweep.space.lr.low=1e-5", "sweep.space.lr.high=1e-4")
    assert planner.plan("+sweep=lora", *SIZES, *low).config.sweep.space["lr"].first is None
    own = planner.plan("+sweep=lora", *SIZES, "sweep.space.lr.first=[0.003]")
    assert own.trials[0].optim.lr == 0.003


def test_first_values_of_ones_own_leave_the_range_to_the_plan_which_holds_them(
    planner: Planner,
) -> None:
    usual = planner.plan("+sweep=lora", *SIZES).config.sweep.space
    firsts = ("sweep.space.lr.first=[6e-5,0.003]", "sweep.space.rank.first=[32]")
    made = planner.plan("+sweep=lora", *SIZES, *firsts)
    rates, rank = made.config.sweep.space["lr"], made.config.sweep.space["rank"]
    assert (rates.low, rates.high, rates.first) == (6e-5, usual["lr"].high, [6e-5, 0.003])
    assert rank.values == sorted({*(usual["rank"].values or []), 32}) and rank.first == [32]
    assert made.trials[0].optim.lr == 6e-5 and made.trials[0].adapter.rank == 32


def test_of_a_range_with_one_end_of_ones_own_the_plan_chooses_the_other(planner: Planner) -> None:
    usual = planner.plan("+sweep=lora", *SIZES).config.sweep.space["lr"]
    names = {planner.plan("+sweep=lora", *SIZES).name}
    for end, value, other in (
        ("low", 0.002, usual.high),
        ("low", 5e-5, usual.high),
        ("high", 0.004, usual.low),
        ("high", 1e-4, 3.1e-6),
    ):
        made = planner.plan("+sweep=lora", *SIZES, f"sweep.space.lr.{end}={value}")
        knob = made.config.sweep.space["lr"]
        ends = {"low": knob.low, "high": knob.high}
        assert ends.pop(end) == value and list(ends.values()) == [other]
        assert all(knob.low <= rate <= knob.high for rate, _ in points(made))  # type: ignore[operator]
        names.add(made.name)
    assert len(names) == 5


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("[0.5]", "holds 0.5, which is not searched"),
        ("[]", "needs at least one value"),
        ("[abc]", "holds abc"),
    ],
)
def test_a_first_value_that_is_not_searched_is_refused(
    planner: Planner, first: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        planner.plan("+sweep=lora", f"sweep.space.lr.first={first}")
    assert len(error.value.problems) == 1


def test_a_grid_has_no_first_trial_and_an_alpha_that_follows_the_ranks_keeps_them(
    planner: Planner,
) -> None:
    knob = "sweep.space={r: {path: adapter.rank, type: grid, values: [4, 8], first: [8]}}"
    with pytest.raises(ConfigError, match="takes values; leave it out|goes with choice"):
        planner.plan(knob)
    choice = "sweep.space={rank: {path: adapter.rank, type: choice, values: [32, 4, 8, 4]}}"
    grid = planner.plan(choice, "sweep.search=grid")
    assert [trial.adapter.rank for trial in grid.trials] == [32, 4, 8]
    alpha = "+sweep.space.alpha={path: adapter.alpha, type: linked, to: adapter.rank, values: [8, 16, 32, 64]}"
    made = planner.plan("+sweep=lora", *SIZES, alpha)
    assert made.config.sweep.space["rank"].values == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("tokens", "per_rank", "hidden", "expected"),
    [
        (165_000, 61_056, 576, [8, 16, 32, 64]),
        (30_000, 61_056, 576, [4, 8, 16, 32]),
        (20_000_000, 61_056, 576, [16, 32, 64, 128]),
        (20_000_000, 600_000, 4096, [32, 64, 128, 256]),
        (495_000, 700, 64, [2, 4, 8, 16]),
        (10, 10, 2, [1]),
        (0, 0, 576, [4, 8, 16, 32]),
    ],
)
def test_the_ranks_are_those_where_capacity_can_matter(
    tokens: float, per_rank: int, hidden: int, expected: list[int]
) -> None:
    assert worth_searching(tokens, per_rank, hidden) == expected


def test_a_first_value_is_used_once_and_a_repeated_point_is_drawn_anew() -> None:
    space = {
        "r": Knob(path="adapter.rank", type="choice", values=[4, 8], first=[8, 8]),
        "b": Knob(path="train.batch_size", type="choice", values=[16], first=[16]),
    }
    assert point(space, 0, 1) == {"adapter.rank": 8, "train.batch_size": 16}
    assert point(space, 0, 2)["adapter.rank"] == 8
    assert {point(space, 0, index)["adapter.rank"] for index in range(3, 30)} == {4, 8}


def test_optuna_begins_at_the_same_trials(planner: Planner) -> None:
    typed = ("+sweep=lora", *SIZES, "sweep.search=optuna")
    made, drawn = planner.plan(*typed), planner.plan("+sweep=lora", *SIZES)
    search = Sampler(made.config, 5, {})
    proposed = [search.next_point(index) for index in range(1, 6)]
    assert proposed[0] == {
        "optim.lr": drawn.trials[0].optim.lr,
        "adapter.rank": drawn.trials[0].adapter.rank,
    }
    assert [each["optim.lr"] for each in proposed[1:3]] == [rate for rate, _ in points(drawn)[1:3]]


FOUND = {1: (0.2, 0.004, 4), 2: (0.6, 0.02, 16), 3: (0.5, 0.008, 8), 4: (0.1, 0.001, 8)}


def test_a_new_sweep_starts_from_what_earlier_ones_have_found(planner: Planner) -> None:
    planner.earlier("old-1", FOUND)
    planner.earlier("old-2", {1: (0.55, 0.01, 16), 2: (0.6, 0.02, 16)})
    made = planner.begun("+sweep=lora", *SIZES, "sweep.prior=auto")
    assert points(made)[:3] == [(0.02, 16), (0.01, 16), (0.008, 8)]
    knob = made.config.sweep.space["lr"]
    assert (knob.low, knob.high) == (0.002, 0.08)
    assert "trial 2 of old-1 (0.6), trial 1 of old-2 (0.55), trial 3 of old-1 (0.5)" in plan_text(
        made
    )
    planner.earlier("old-3", {1: (0.9, 0.03, 8)})
    again = planner.plan("+sweep=lora", "sweep.num_trials=9", "train.steps=40", "sweep.prior=auto")
    assert again.name == made.name and points(again)[:5] == points(made), "a wider one goes on"
    assert again.start.found == made.start.found
    one = planner.plan("+sweep=lora", *SIZES, "sweep.prior=old-3")
    assert points(one)[0] == (0.03, 8) and one.name != made.name
    assert points(planner.plan("+sweep=lora", *SIZES))[0] != (0.03, 8)


def test_only_what_the_space_holds_is_started_from(planner: Planner) -> None:
    planner.earlier("old-1", FOUND)
    narrow = ("sweep.space.lr.low=0.005", "sweep.space.lr.high=0.009")
    made = planner.plan("+sweep=lora", *SIZES, "sweep.prior=old-1", *narrow)
    assert points(made)[0] == (0.008, 8) and made.start.found == "trial 3 of old-1 (0.5)"
    with pytest.raises(ConfigError, match=r"lies outside of sweep\.space"):
        planner.plan("+sweep=lora", *SIZES, "sweep.prior=old-1", "sweep.space.rank.values=[5]")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "another"}, "its base model is tiny@another"),
        ({"digests": {"valid": "x"}}, "its training or validation rows are others"),
        ({"metric": "valid/other"}, "none of its trials has a valid/"),
        ({"state": "failed"}, "none of its trials has a valid/"),
    ],
)
def test_a_sweep_that_says_nothing_about_this_one_is_refused(
    planner: Planner, changes: dict[str, Any], said: str
) -> None:
    planner.earlier("old-1", FOUND, **changes)
    with pytest.raises(ConfigError, match=said) as error:
        planner.plan("+sweep=lora", *SIZES, "sweep.prior=old-1")
    assert [path for path, _ in error.value.problems] == ["sweep.prior"]
    with pytest.raises(ConfigError, match="none of the 1 sweeps of storage="):
        planner.plan("+sweep=lora", *SIZES, "sweep.prior=auto")
    planner.earlier("old-2", FOUND, digests={"test": "others are no matter"})
    assert planner.plan("+sweep=lora", *SIZES, "sweep.prior=auto").start.found is not None


def test_where_there_is_nothing_to_read_it_is_said(planner: Planner) -> None:
    with pytest.raises(ConfigError, match="holds no earlier sweep"):
        planner.plan("+sweep=lora", *SIZES, "sweep.prior=auto")
    with pytest.raises(ConfigError, match="lora-1 is no sweep of storage=.*holds no sweep"):
        planner.plan("+sweep=lora", *SIZES, "sweep.prior=lora-1")
    with pytest.raises(ConfigError, match="there is one trial"):
        planner.plan("sweep.prior=auto")


@pytest.mark.parametrize("content", ["", "[]", '{"search": 3}', '{"search": {"knobs": {"x": 1}}}'])
def test_a_start_that_cannot_be_read_is_decided_again(planner: Planner, content: str) -> None:
    first = planner.begun("+sweep=lora", *SIZES)
    file = sweep_folder(first.config.storage, first.name) / sizing.FILE
    file.write_text(content, encoding="utf-8")
    assert points(planner.plan("+sweep=lora", *SIZES)) == points(first)
