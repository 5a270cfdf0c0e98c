"""What a sweep tries and whom it stops: the search space, halving, and the plan's identity. All
pure.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.search_space import Knob, link, point
from orchestrator.plan import planner as planning
from orchestrator.plan.resources import Node, divide
from orchestrator.plan.rungs import survivors
from orchestrator.storage.journal import Journal, Record
from orchestrator.sweep.sampler import Sampler
from orchestrator.sweep.successive_halving import SuccessiveHalving
from tests.support.settings import build

SPACE = {
    "lr": Knob(path="optim.lr", type="loguniform", low=1e-4, high=1e-2),
    "rank": Knob(path="adapter.rank", type="choice", values=[4, 8]),
    "alpha": Knob(path="adapter.alpha", type="linked", to="adapter.rank", times=2),
    "titles": Knob(path="data.sources.titles.weight", type="uniform", low=0, high=0.9, step=0.1),
    "batch": Knob(path="train.batch_size", type="randint", low=8, high=32, step=8),
}


def test_a_point_depends_on_seed_and_index_only_and_stays_in_its_ranges() -> None:
    points = [point(SPACE, 7, index) for index in range(1, 400)]
    assert points == [point(SPACE, 7, index) for index in range(1, 400)]
    assert points != [point(SPACE, 8, index) for index in range(1, 400)]
    assert all(
        1e-4 <= p["optim.lr"] <= 1e-2 and p["adapter.alpha"] == 2 * p["adapter.rank"]
        for p in points
    )  # type: ignore[operator]
    assert {p["train.batch_size"] for p in points} == {8, 16, 24, 32}
    assert {p["data.sources.titles.weight"] for p in points} == {
        round(i / 10, 1) for i in range(10)
    }


def test_grid_knobs_walk_all_combinations_and_the_last_one_changes_fastest() -> None:
    space = {
        path: Knob(path=path, type="grid", values=values)
        for path, values in {"a": [1, 2], "b": ["x", "y", "z"]}.items()
    }
    expected = [{"a": a, "b": b} for a in (1, 2) for b in "xyz"]
    assert [point(space, 0, index) for index in range(1, 13)] == expected * 2


def test_an_interrupted_optuna_sweep_goes_on_with_its_points_and_proposes_none_of_them_again() -> (
    None
):
    chosen = ["+sweep=lora", "sweep.metric=valid/exact_match", "sweep.search=optuna"]
    config = build(compose([*chosen, "sweep.num_trials=12"], None))
    undisturbed, again = Sampler(config, 12, {}), Sampler(config, 12, {})
    known = {}
    for index in range(1, 9):
        proposed = undisturbed.next_point(index)
        assert again.next_point(index) == proposed, "one seed, one sweep"
        for search in (undisturbed, again):
            search.ended(index, 0.1 * index)
        # The last one was under way when the sweep was interrupted.
        known[index] = Record(
            index,
            proposed,
            {240: {"valid/exact_match": 0.1 * index}},
            "finished" if index < 8 else "interrupted",
        )
    resumed = Sampler(config, 12, known)
    assert [resumed.next_point(index) for index in known] == [
        record.point for record in known.values()
    ]
    resumed.ended(8, 0.9)
    scores = [trial.value for trial in resumed._optuna._study.trials]  # type: ignore[union-attr]
    assert sorted(scores) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9])
    points = [resumed.next_point(index) for index in range(9, 13)]
    assert all(one not in [record.point for record in known.values()] for one in points)


def test_taking_a_knob_away_leaves_the_other_knobs_values_alone() -> None:
    fewer = {name: knob for name, knob in SPACE.items() if name != "batch"}
    assert all(
        point(fewer, 1, i)["optim.lr"] == point(SPACE, 1, i)["optim.lr"] for i in range(1, 20)
    )


def test_grid_knobs_walk_every_combination() -> None:
    space = {
        "lr": Knob(path="optim.lr", type="grid", values=[0.1, 0.2, 0.3]),
        "rank": Knob(path="adapter.rank", type="grid", values=[4, 8]),
        "alpha": Knob(path="adapter.alpha", type="linked", to="adapter.rank", values=[16, 64]),
    }
    points = [point(space, 0, index) for index in range(1, 7)]
    assert len({tuple(p.values()) for p in points}) == 6
    assert all(p["adapter.alpha"] == {4: 16, 8: 64}[p["adapter.rank"]] for p in points)  # type: ignore[index]
    assert link(space, {"optim.lr": 0.1, "adapter.rank": 8})["adapter.alpha"] == 64


def play(
    order: random.Random, scores: dict[int, list[float]], rungs: list[int], reduction: int
) -> dict[int, int]:
    """Run a bracket with trials arriving in a random order; returns the last rung each trial
    reached.
    """
    halving = SuccessiveHalving(len(scores), rungs, reduction, maximise=True)
    reached = dict.fromkeys(scores, 0)
    while True:
        ready = [t for t in scores if reached[t] < len(rungs) and halving.decide(t) == "go on"]
        if not ready:
            return reached
        trial = order.choice(ready)
        reached[trial] += 1
        halving.report(trial, rungs[reached[trial] - 1], scores[trial][reached[trial] - 1])


@pytest.mark.parametrize("seed", range(30))
def test_who_survives_depends_on_scores_never_on_the_order_of_arrival(seed: int) -> None:
    stream = random.Random(seed)
    count, reduction = stream.randint(1, 12), stream.randint(2, 4)
    scores = {
        t: [stream.choice([0.0, 0.1, 0.2, float("nan")]) for _ in range(3)]
        for t in range(1, count + 1)
    }
    rungs = [10, 20, 40]
    outcomes = [play(random.Random(order), scores, rungs, reduction) for order in range(8)]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    expected = survivors(count, rungs, reduction)
    assert [sum(1 for r in outcomes[0].values() if r > level) for level in range(3)] == expected


def test_ties_go_to_the_lower_loss_and_then_to_the_earlier_trial() -> None:
    halving = SuccessiveHalving(3, [10, 20], 3, maximise=True)
    for trial, loss in ((3, 1.0), (1, 2.0), (2, 1.0)):
        halving.report(trial, 10, 0.0, loss)
    assert [halving.decide(trial) for trial in (1, 2, 3)] == ["stop", "go on", "stop"]


def test_nobody_waits_for_a_trial_that_has_failed() -> None:
    halving = SuccessiveHalving(3, [10, 20], 2, maximise=False)
    assert halving.report(1, 10, 0.5) == "wait"
    assert halving.report(2, 10, 0.1) == "wait"
    halving.leave(3)
    assert [halving.decide(trial) for trial in (1, 2)] == ["stop", "go on"]


def test_a_replayed_report_changes_nothing() -> None:
    halving = SuccessiveHalving(2, [10, 20], 2, maximise=True)
    halving.report(1, 10, 0.5)
    halving.report(2, 10, 0.1)
    assert halving.report(1, 10, 0.0) == "go on"
    assert halving.decide(2) == "stop"


def name_of(cache: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The sweep's name under these settings."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return planning.make(build(compose(["model=tiny", *arguments], None))).name


def test_a_sweep_is_named_by_what_decides_its_result(
    cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(*arguments: str, schedule: str = "constant") -> str:
        return name_of(
            cache,
            monkeypatch,
            "+sweep=lora",
            "data=files",
            f"optim.schedule={schedule}",
            "sweep.minutes=null",
            *arguments,
        )

    same, rows = name(f"data.folder={toy}"), (toy / "train.jsonl").read_text()
    for neutral in (
        "sweep.num_trials=20",
        "train.steps=999",
        "storage=elsewhere",
        "tracking.experiment=x",
        "train.max_failures=9",
        "cluster.num_cpus=1",
    ):
        assert name(f"data.folder={toy}", neutral) == same, neutral
    (tmp_path / "train.jsonl").write_text(rows)
    assert name(f"data.folder={tmp_path}") == same, "the same rows in another place"
    (tmp_path / "train.jsonl").write_text(rows.replace("alpha 0", "alpha zero"))
    assert name(f"data.folder={tmp_path}") != same
    for decisive in (
        "seed=1",
        "optim.warmup_steps=3",
        "data.instruction=Do it",
        "sweep.reduction=2",
        "train.batch_size=8",
        "sweep.space.lr.low=0.001",
    ):
        assert name(f"data.folder={toy}", decisive) != same, decisive
    for schedule in ("cosine", "warmup_stable_decay"):
        tied = [
            name(f"data.folder={toy}", f"train.steps={steps}", schedule=schedule)
            for steps in (50, 60)
        ]
        assert tied[0] != tied[1], "a schedule that depends on the length makes it decisive"


def test_the_machine_is_shared_between_trials() -> None:
    config = build(compose(["model=tiny"], None))

    def shares(num_trials: int, cpus: int, gpus: int, **train: Any) -> tuple[int, int, float]:
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
        found = divide(changed, num_trials, (Node(cpus, gpus),))
        return found.concurrent, found.cpus, found.gpus

    assert shares(6, 2, 0) == (2, 1, 0)
    assert shares(1, 16, 0) == (1, 16, 0)
    assert shares(20, 64, 0) == (12, 5, 0)
    assert shares(6, 16, 1) == (1, 16, 1)
    assert shares(6, 16, 4) == (4, 4, 1)
    assert shares(6, 16, 1, gpus_per_worker=0.5) == (2, 8, 0.5)
    assert shares(6, 8, 0, num_workers=4) == (2, 1, 0)


def test_a_torn_line_in_the_journal_costs_that_line_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("trial", trial=1, point={"optim.lr": 0.1})
    journal.append("report", trial=1, step=10, metrics={"valid/loss": float("nan")})
    with journal.file.open("a") as stream:
        stream.write('{"t": 1, "kind": "rep')
    journal.append("report", trial=1, step=20, metrics={"valid/loss": 0.5}, checkpoint="/x")
    journal.append("report", trial=1, step=20, metrics={"test/exact_match": 0.9})
    journal.append("end", trial=1, state="finished", error=None)
    record = journal.records()[1]
    assert list(record.reports) == [10, 20]
    assert record.best("valid/loss", maximise=False) == (20, 0.5)
    assert (record.point, record.state, record.checkpoints) == (
        {"optim.lr": 0.1},
        "finished",
        {20: "/x"},
    )
    assert json.loads(journal.file.read_text().splitlines()[0])["kind"] == "trial"
