"""What a budget allows, decided from the pace that trials show: no process, and a clock that is told
the time.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.config import BaseModel
from jobs.workers.messages import LoggedStep, StepMetrics
from orchestrator.config.budget import Budget, Prices
from orchestrator.config.compose import compose
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan import planner as planning
from orchestrator.plan.budget import tolerance_seconds
from orchestrator.plan.timing import Speed
from orchestrator.storage.journal import Journal
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.spending import Spending
from orchestrator.sweep.budget_outcome import budget_record, rounded_up
from orchestrator.sweep.callback import SweepCallback
from orchestrator.sweep.finalists import FinalState
from orchestrator.sweep.state import SweepState
from tests.support.settings import build

JUDGING = 10.0
FLOPS = 200e9
"""Of a machine like any: how much quicker fewer trials are depends on it."""


class Sweep:
    """A sweep of four trials at a step each second, with a rung each 20 steps."""

    def __init__(self, toy: Path, storage: Path, base: BaseModel, **limits: float) -> None:
        settings = ["+sweep=lora", "model=tiny", "data=files", f"data.folder={toy}"]
        settings += [f"storage={storage}", "train.max_length=128", "sweep.num_trials=4"]
        settings += ["train.steps=180", "train.eval_every=20", "sweep.metric=valid/loss"]
        self.plan = planning.make(build(compose(settings, None)))
        assert self.plan.timing is not None
        self.plan.timing.speed = Speed(FLOPS, FLOPS, 1.0, "")
        journal = Journal(sweep_folder(str(storage), self.plan.name))
        journal.folder.mkdir(parents=True)
        self.seconds = 0.0
        screen = ProgressDisplay(4, 180, "valid/loss")
        screen.spending = Spending(
            Budget(**limits), Prices(cpu_hour=3600.0), 1, 0, 0.0, None, lambda: self.seconds
        )
        self.notes: list[str] = []
        screen.note = self.notes.append
        self.sweep_state = SweepState(self.plan, base, journal, screen, {})
        self.allowance = self.sweep_state.allowance
        self.allowance.judging_seconds = lambda: JUDGING
        self.allowance.evaluation_seconds = 0.0
        self.steps: dict[int, int] = {}

    def start(self, *indices: int) -> None:
        for index in indices:
            self.sweep_state.trial(index)
            self.sweep_state.slots_taken.add(index)
            self.sweep_state.started.add(index)
            self.steps[index] = 0

    def take_steps(self, steps: int, each: float = 1.0) -> None:
        """All that train take so many steps."""
        running = self.allowance.running()
        for _ in range(steps):
            self.seconds += each
            for index in running:
                self.steps[index] += 1
                metrics = {"train/tokens_per_second": 100.0, "train/examples_per_second": 10.0}
                milliseconds = int(1000 * self.seconds)
                self.allowance.tell_step(index, milliseconds, self.steps[index], metrics)

    def train(self, steps: int, each: float = 1.0) -> None:
        """The same; what they report at a rung is the trial's number."""
        running = self.allowance.running()
        self.take_steps(steps, each)
        for index in running:
            if self.steps[index] % 20 == 0:
                self.sweep_state.records[index].reports[self.steps[index]] = {
                    "valid/loss": float(index)
                }
                self.allowance.tell_report(index, self.steps[index])
        self.allowance.evaluation_seconds = 0.0


@pytest.fixture
def sweep(base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return lambda **limits: Sweep(toy, tmp_path, base, **limits)


def test_without_a_budget_everything_is_allowed(sweep) -> None:
    made = sweep()
    made.start(1, 2, 3, 4)
    made.train(20)
    made.allowance.look()
    assert not made.allowance.closed and made.allowance.admits(4)
    assert budget_record(made.sweep_state) is None


def test_who_does_not_come_to_the_next_rung_is_judged_where_it_stands(sweep) -> None:
    made = sweep(minutes=45 / 60)
    made.start(1, 2, 3, 4)
    made.train(10)
    made.allowance.look()
    assert not made.allowance.closed
    made.train(10)
    made.allowance.look()
    assert made.allowance.over, "20 s are spent, a rung takes 20, the judgement 10"
    assert "budget.minutes=0.75 is all but spent: the best so far is judged" in made.notes
    record = budget_record(made.sweep_state)
    assert record is not None and record["reached"] == "minutes"
    assert "the best trial stands at step 20 of 180" in record["lines"][0]
    setting, _, value = record["wider"].partition("=")
    assert setting == "budget.minutes" and float(value) > 0.75
    assert record["lines"][1].startswith(f"{record['wider']} would likely finish the sweep")


def test_a_rung_that_has_begun_may_be_a_little_late(sweep) -> None:
    made = sweep(minutes=52 / 60)
    made.start(1, 2, 3, 4)
    made.train(20)
    made.allowance.look()
    assert not made.allowance.closed
    made.train(15, each=1.2)
    made.allowance.look()
    assert not made.allowance.closed, "5 steps more take 6 s, and 14 are left"


def test_the_leaders_alone_go_on_where_all_would_be_too_slow(sweep) -> None:
    made = sweep(minutes=1)
    made.start(1, 2, 3, 4)
    made.train(20)
    made.allowance.look()
    assert not made.allowance.closed
    made.train(10, each=2.8)
    made.allowance.look()
    assert made.allowance.cut and 1 not in made.allowance.cut, "the lowest loss leads"
    assert made.allowance.running() == [1] and made.allowance.closed
    assert any("trial 1 alone to the next evaluation" in note for note in made.notes)


def test_one_trial_always_comes_to_its_first_rung(sweep) -> None:
    made = sweep(minutes=15 / 60)
    made.start(1, 2, 3, 4)
    made.train(10)
    made.allowance.look()
    assert made.allowance.cut == {2, 3, 4} and not made.allowance.over
    made.train(9)
    made.allowance.look()
    assert not made.allowance.over and made.sweep_state.abort_reason is None
    made.train(1)
    made.allowance.look()
    assert made.allowance.over


def test_a_trial_that_never_comes_to_its_rung_ends_the_sweep_in_the_end(sweep) -> None:
    made = sweep(minutes=15 / 60)
    made.start(1)
    made.train(10)
    made.seconds += 60
    made.allowance.look()
    assert made.sweep_state.abort_reason is not None
    assert "budget.minutes=0.25 is spent, and no trial has come to its first rung" in (
        made.sweep_state.abort_reason
    )


@pytest.mark.parametrize("scored", [True, False])
def test_a_rung_whose_report_does_not_come_ends_too(sweep, scored: bool) -> None:
    made = sweep(minutes=1)
    made.start(1, 2)
    if scored:
        made.train(20)
    made.take_steps(20)
    made.allowance.look()
    assert not made.allowance.over and made.sweep_state.abort_reason is None, "it may still come"
    made.seconds = 60 + tolerance_seconds(60) - JUDGING + 1
    made.allowance.look()
    assert made.allowance.over == scored, "the judgement takes 10 s more"
    made.seconds += JUDGING
    made.allowance.look()
    assert (made.sweep_state.abort_reason is not None) != scored
    assert made.allowance.limit == "minutes"


def test_finalists_that_are_late_end_with_the_score_of_the_trials(sweep) -> None:
    made = sweep(minutes=1)
    made.start(1)
    made.train(20)
    final = FinalState(made.sweep_state, made.plan, {1001: {}}, {})
    final.trial(1001)
    final.slots_taken.add(1001)
    final.started.add(1001)
    final.allowance.tell_step(1001, 1000, 1, {})
    made.seconds = 60 + tolerance_seconds(60) + 1
    final.allowance.look()
    assert final.abort_reason is None and final.allowance.over


def test_no_trial_is_admitted_that_would_not_come_to_its_rung(sweep) -> None:
    made = sweep(minutes=1)
    assert made.allowance.admits(1)
    made.start(1)
    made.train(20)
    made.sweep_state.slots_taken.discard(1)
    assert made.allowance.admits(2)
    made.seconds += 15
    assert not made.allowance.admits(2) and not made.allowance.admits(3)
    assert any("no more trials are started" in note for note in made.notes)


def test_tokens_end_a_sweep_too(sweep) -> None:
    made = sweep(tokens=20 * 4 * 10 * 32 + 1)
    made.sweep_state.plan.timing.rows = made.plan.timing.rows.__class__(10, 1, 9, 9, 9)
    made.start(1, 2, 3, 4)
    made.train(20)
    made.allowance.look()
    assert made.allowance.over and made.allowance.limit == "tokens"
    assert made.sweep_state.screen.spending.now().tokens == pytest.approx(20 * 4 * 10 * 32)


def test_steps_that_are_trained_again_after_a_kill_count_again(sweep) -> None:
    made = sweep(tokens=1e9)
    recorder = SweepCallback(made.sweep_state)
    made.start(1)
    made.sweep_state.screen.start(1, {})
    metrics = {"train/loss": 1.0, "train/tokens_per_second": 100.0}
    metrics["train/examples_per_second"] = 10.0
    for _ in range(2):
        steps = [LoggedStep(1000 * step, step, metrics) for step in range(1, 11)]
        recorder.take_steps(StepMetrics(1, steps))
    each = 10 * made.plan.config.train.batch_size
    assert made.sweep_state.screen.spending.now().tokens == pytest.approx(2 * 10 * each)
    assert made.allowance.pace(1).seconds == pytest.approx(1.0)
    events = [event for event in made.sweep_state.journal.events() if event["kind"] == "metrics"]
    assert [event["step"] for event in events] == list(range(1, 11)), "and are told once"


def test_money_follows_the_prices(sweep) -> None:
    made = sweep(money=45)
    made.start(1, 2, 3, 4)
    made.train(20)
    made.allowance.look()
    assert made.allowance.over and made.allowance.limit == "money"


def test_a_deadline_is_looked_at_on_the_clock_of_the_wall(sweep) -> None:
    made = sweep(deadline=time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 12)))
    made.start(1, 2, 3, 4)
    made.train(20)
    made.allowance.look()
    assert made.allowance.over and made.allowance.limit == "deadline"
    record = budget_record(made.sweep_state)
    assert record is not None and record["wider"] is None


@pytest.mark.parametrize(("amount", "rounded"), [(0.123, 0.13), (4.01, 4.1), (1234.0, 1300.0)])
def test_a_suggested_limit_is_round_and_not_too_low(amount: float, rounded: float) -> None:
    assert rounded_up(amount) == pytest.approx(rounded)
