"""Finalists: which trials they are, what is still to be trained of them, whose mean wins, and a
whole sweep with them, also one that was killed while they trained.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.config.run_numbers import (
    finalist_number,
    is_finalist,
    label,
    run_name,
    seed_number,
    trial_number,
)
from orchestrator.config.search_space import Point
from orchestrator.config.settings import MOST_TRIALS
from orchestrator.errors import ConfigError
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan import planner as planning
from orchestrator.plan.finalists import describe
from orchestrator.storage.journal import Journal
from orchestrator.storage.paths import sweep_folder
from orchestrator.sweep.finalists import (
    FinalState,
    choose_finalists,
    standings,
    told,
    unfinished,
)
from orchestrator.sweep.searcher import TrialSearcher
from orchestrator.sweep.state import SweepState
from tests.support.settings import build
from tests.support.trials import SHORT_SWEEP

VALID = "valid/accuracy"


class Sweep:
    """The journal of a sweep whose four trials have ended."""

    def __init__(self, toy: Path, storage: Path, base: BaseModel, *typed: str) -> None:
        settings = ["+sweep=lora", "model=tiny", "data=files", f"data.folder={toy}"]
        settings += [f"storage={storage}", "train.max_length=128", "sweep.num_trials=4"]
        settings += ["final.count=2", "optim.schedule=constant"]
        steps = ["train.steps=60", "train.eval_every=20"]
        self.config = build(compose([*settings, *steps, *typed], None))
        self.plan, self.base = planning.make(self.config), base
        self.journal = Journal(sweep_folder(str(storage), self.plan.name))
        self.journal.folder.mkdir(parents=True)
        for trial, (score, steps_done) in enumerate([(0.5, 60), (0.9, 20), (0.7, 60), (0.8, 60)]):
            state = "finished" if steps_done == 60 else "stopped"
            self.ran(trial + 1, {steps_done: score}, state)

    def ran(self, number: int, scores: dict[int, float], state: str = "finished") -> None:
        """Write down what a run has scored, by step."""
        point: Point = {"optim.lr": 0.001 * trial_number(number), "adapter.rank": 8}
        if is_finalist(number):
            point["seed"] = seed_number(number)
        self.journal.append("trial", trial=number, point=point)
        for step, score in scores.items():
            metrics = {VALID: score, "valid/loss": 1.0}
            self.journal.append("report", trial=number, step=step, metrics=metrics)
        error = "reason" if state == "failed" else None
        self.journal.append("end", trial=number, state=state, error=error)

    def sweep_state(self) -> SweepState:
        screen = ProgressDisplay(4, 60, VALID)
        return SweepState(self.plan, self.base, self.journal, screen, {})


@pytest.fixture
def make(base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return lambda *typed: Sweep(toy, tmp_path, base, *typed)


@pytest.mark.parametrize(("trial", "seed"), [(1, 0), (MOST_TRIALS, 0), (1, 4), (MOST_TRIALS, 4)])
def test_a_finalists_number_tells_its_trial_and_its_seed(trial: int, seed: int) -> None:
    number = finalist_number(trial, seed)
    assert is_finalist(number) and not is_finalist(trial)
    assert (trial_number(number), seed_number(number)) == (trial, seed)
    assert label(number) == f"finalist {trial} seed {seed + 1}"
    assert run_name(number) > run_name(trial), "a finalist's runs stand below its trial"


def test_the_best_trials_are_the_finalists_and_nothing_is_trained_again(make: Any) -> None:
    sweep_state = make().sweep_state()
    chosen = choose_finalists(sweep_state)
    assert [finalist.trial for finalist in chosen] == [2, 4]
    assert unfinished(sweep_state, chosen) == {}
    first, second = standings(sweep_state, chosen)
    assert (first.best.index, first.mean, first.spread) == (2, 0.9, None)
    assert second.best.index == 4


def test_a_finalist_stopped_early_goes_on_where_its_rate_still_had_to_fall(make: Any) -> None:
    sweep_state = make("optim.schedule=linear", "sweep.scheduler=halving").sweep_state()
    chosen = choose_finalists(sweep_state)
    assert list(unfinished(sweep_state, chosen)) == [2], "trial 4 has come to its end"


def test_under_more_seeds_the_best_mean_wins_and_its_best_checkpoint_is_judged(make: Any) -> None:
    sweep = make("final.seeds=3")
    sweep_state = sweep.sweep_state()
    chosen = choose_finalists(sweep_state)
    wanted = unfinished(sweep_state, chosen)
    assert sorted(wanted) == sorted(
        [2, *(finalist_number(trial, seed) for trial in (2, 4) for seed in (1, 2))]
    )
    assert [wanted[finalist_number(4, seed)]["seed"] for seed in (1, 2)] == [1, 2]
    for number, score in zip(sorted(wanted), [0.4, 0.3, 0.95, 0.6, 0.7], strict=True):
        sweep.ran(number, {60: score})
    sweep_state = sweep.sweep_state()
    assert unfinished(sweep_state, chosen) == {}
    first, second = standings(sweep_state, choose_finalists(sweep_state))
    assert first.finalist.trial == 4, "0.8, 0.95 and 0.7 against 0.9, 0.3 and 0.6"
    assert first.mean == pytest.approx((0.8 + 0.95 + 0.7) / 3)
    assert first.spread == pytest.approx(0.12583057)
    assert first.best.index == finalist_number(4, 1)
    assert second.mean == pytest.approx((0.9 + 0.3 + 0.6) / 3)
    (line, _) = told(sweep_state, [first, second])
    assert line.scores == {"0": 0.8, "1": 0.95, "2": 0.7} and line.failed == 0


def test_a_schedule_of_their_own_trains_all_runs_anew(make: Any) -> None:
    sweep = make("final.schedule=cosine")
    sweep_state = sweep.sweep_state()
    chosen = choose_finalists(sweep_state)
    wanted = unfinished(sweep_state, chosen)
    assert sorted(wanted) == [finalist_number(2, 0), finalist_number(4, 0)]
    assert {point["optim.schedule"] for point in wanted.values()} == {"cosine"}
    assert all(point["seed"] == 0 for point in wanted.values())


def test_a_finalist_with_a_failed_run_comes_after_one_whose_runs_have_all_scored(
    make: Any,
) -> None:
    sweep = make("final.seeds=2")
    sweep.ran(2, {60: 0.9})
    sweep.ran(finalist_number(2, 1), {}, "failed")
    sweep.ran(finalist_number(4, 1), {60: 0.1})
    sweep_state = sweep.sweep_state()
    chosen = choose_finalists(sweep_state)
    assert unfinished(sweep_state, chosen) == {}, "what has failed fails again"
    ranked = standings(sweep_state, chosen)
    assert [standing.finalist.trial for standing in ranked] == [4, 2]
    assert told(sweep_state, ranked)[1].failed == 1


def test_a_finalist_that_its_losses_have_stopped_inside_a_rung_goes_on(make: Any) -> None:
    sweep = make("optim.schedule=linear", "sweep.scheduler=halving")
    sweep.journal.append("end", trial=2, state="stopped", error=None, inside="left behind")
    sweep_state = sweep.sweep_state()
    runs = unfinished(sweep_state, choose_finalists(sweep_state))
    assert list(runs) == [2] and sweep_state.stopped_inside(2) == "left behind"
    searcher = TrialSearcher(sweep_state)
    searcher.starts_at_once = 4
    handed: Any = [searcher.suggest(str(index)) for index in range(2)][1]
    assert handed["index"] == 2 and handed["stopped"] == "left behind"
    again: Any = TrialSearcher(FinalState(sweep_state, sweep.plan, runs, {})).suggest("0")
    assert again["index"] == 2 and again["stopped"] is None


@pytest.mark.parametrize(
    ("typed", "finalists"),
    [(["final.count=0"], 0), (["final.count=1"], 1), (["final.count=20"], 4)],
)
def test_there_are_as_many_finalists_as_asked_for_and_not_more_than_trials(
    make: Any, typed: list[str], finalists: int
) -> None:
    sweep = make(*typed)
    assert len(choose_finalists(sweep.sweep_state())) == finalists == sweep.plan.final.count


def test_the_plan_counts_what_finalists_cost(make: Any) -> None:
    plan = make("final.seeds=3", "final.schedule=linear").plan
    assert plan.final.new_runs == 6 and plan.final.steps(plan.config) == 360
    told_line = describe(plan.config, plan.final)
    assert "under 3 seeds with optim.schedule=linear: 6 more runs of 60 steps" in told_line


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("final.count=-1", r"final\.count +must be between 0 and"),
        ("final.judged=3", r"final\.judged +must be between 1 and final.count=2"),
        ("final.seeds=0", r"final\.seeds +must be between 1 and"),
        ("final.schedule=constant", r"final\.schedule"),
    ],
)
def test_settings_of_finalists_that_cannot_be_are_refused(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(compose(["+sweep=lora", "final.count=2", typed], None))


def events(storage: Path) -> list[dict[str, Any]]:
    (file,) = storage.glob("sweeps/*/journal.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def scores(storage: Path) -> dict[tuple[int, int], float]:
    """The validation scores in the journal, by run and step."""
    return {
        (event["trial"], event["step"]): event["metrics"][VALID]
        for event in events(storage)
        if event["kind"] == "report" and VALID in event["metrics"]
    }


@pytest.mark.parametrize("executor", ["pack", pytest.param("plain", marks=pytest.mark.slow)])
def test_a_sweep_trains_its_finalists_under_more_seeds_and_judges_the_best(
    command: Any, tmp_path: Path, executor: str
) -> None:
    arguments = [*SHORT_SWEEP, f"storage={tmp_path}", "final.count=2", "final.seeds=2"]
    arguments += ["optim.schedule=constant", f"executor={executor}"]
    done = command(*arguments)
    assert done.code == 0, done.err
    found = done.result["finalists"]
    assert len(found) == 2 and all(len(finalist["scores"]) == 2 for finalist in found)
    assert [f["mean"] for f in found] == sorted((f["mean"] for f in found), reverse=True)
    again = {number for number, _ in scores(tmp_path) if is_finalist(number)}
    assert again == {finalist_number(finalist["trial"], 1) for finalist in found}
    assert done.result["best"]["trial"] == found[0]["trial"]
    assert done.result["trials"]["total"] == 3, "finalists are no trials"
    seen = command(*arguments)
    assert seen.result == done.result and "is finished; this is its result" in seen.err
    both = command(*arguments, "final.judged=2")
    assert both.code == 0 and "the winner is judged again" in both.err
    (file,) = tmp_path.glob("sweeps/*/result.json")
    kept = json.loads(file.read_text())
    assert kept["tied"]["compared"] == 2 and len(kept["tied"]["scores"]) == 2
    assert kept["tied"]["tied"][0] == label(kept["best"]["run"])


@pytest.mark.slow
def test_a_sweep_killed_while_its_finalists_train_ends_as_an_undisturbed_one(
    command: Any, tmp_path: Path
) -> None:
    arguments = [*SHORT_SWEEP, "final.count=2", "final.schedule=linear"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    expected = command(*arguments, f"storage={undisturbed}")
    assert expected.code == 0, expected.err
    process = command(*arguments, f"storage={killed}", start=True)
    deadline = time.monotonic() + 240
    while not any(is_finalist(number) for number, _ in known(killed)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = command(*arguments, f"storage={killed}")
    assert done.code == 0, done.err
    assert scores(killed) == scores(undisturbed)
    assert done.result["finalists"] == expected.result["finalists"]


def known(storage: Path) -> set[tuple[int, int]]:
    """Runs and steps that are written down; none before the journal is there."""
    try:
        return set(scores(storage))
    except ValueError:
        return set()
