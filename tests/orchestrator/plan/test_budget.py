"""What a plan says of a budget, and which budgets are refused before anything starts."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose, typed_settings
from orchestrator.earlier_result import as_begun
from orchestrator.errors import ConfigError
from orchestrator.output.plan_text import plan_text
from orchestrator.pipeline import prepared
from orchestrator.plan import planner as planning
from orchestrator.plan.budget import account_of
from orchestrator.plan.planner import Plan
from orchestrator.storage.journal import Journal
from orchestrator.storage.paths import sweep_folder
from tests.support.settings import build


@pytest.fixture
def planned(
    base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`planned(*settings)`: the plan of a small sweep with a budget."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))

    def make(*settings: str) -> Plan:
        arguments = [
            "model=tiny",
            "+sweep=lora",
            "data=files",
            f"data.folder={toy}",
            f"storage={tmp_path}",
            "sweep.minutes=null",
            "sweep.num_trials=4",
            "train.steps=60000",
            "train.eval_every=20",
            *settings,
        ]
        return planning.make(build(compose(arguments, None), typed_settings(arguments)))

    return make


def problems(planned, *settings: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        planned(*settings)
    return dict(caught.value.problems)


def budget_lines(plan: Plan) -> list[str]:
    return [line[8:] for line in plan_text(plan).splitlines() if line.startswith("budget ")]


def test_the_plan_says_what_the_sweep_costs_beside_its_budget(planned) -> None:
    lines = budget_lines(planned("budget.minutes=3", "budget.tokens=1e9"))
    assert lines[0].startswith("budget.minutes=3; the whole sweep takes about ")
    assert "it ends at the limit, with the best model so far" in lines[0]
    assert lines[1].startswith("budget.tokens=1e+09; ") and lines[1].endswith(": that fits")
    assert "at most 48 s over it" in lines[2]
    assert budget_lines(planned()) == []


@pytest.mark.parametrize(
    "limit",
    ["minutes=0.02", "cpu_hours=0.00001", "tokens=50", "deadline=2020-01-01"],
)
def test_a_budget_that_pays_no_trial_to_its_first_rung_is_refused(planned, limit: str) -> None:
    name, _, value = limit.partition("=")
    text = problems(planned, f"budget.{limit}")[f"budget.{name}"]
    assert "first rung, step 20" in text
    assert value in text or "1e-05" in text


def test_tokens_are_planned_as_they_are_counted_with_what_all_prompts_share(planned) -> None:
    shared = "data.instruction=" + "Name the category of the request. " * 8
    plan = planned(shared, "train.max_length=512", "budget.tokens=1e9")
    rows, source = plan.timing.rows, plan.sources["train"]
    assert source.tokens is not None
    assert rows.trained == pytest.approx(source.tokens / source.rows, rel=0.1)
    assert rows.trained > 2 * rows.tokens, "a pack computes the instruction once for a batch"
    needed = 20 * plan.config.train.batch_size * rows.trained
    text = problems(planned, shared, "train.max_length=512", f"budget.tokens={needed / 2:.0f}")
    assert "cannot pay one trial to its first rung" in text["budget.tokens"]
    whole = float(budget_lines(plan)[0].split("takes about ")[1].split()[0])
    assert whole >= 60000 * plan.config.train.batch_size * rows.trained


def test_a_deadline_is_a_moment_with_or_without_a_zone(planned) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=3)
    plan = planned(f"budget.deadline={later.isoformat(timespec='minutes')}")
    assert "budget.deadline=" in budget_lines(plan)[0]
    assert plan.config.budget.ends_at == pytest.approx(later.timestamp(), abs=60)


@pytest.mark.parametrize(
    ("settings", "path", "text"),
    [
        (["budget.minutes=0"], "budget.minutes", "must be a number above 0, got 0"),
        (["budget.money=.inf", "cluster.prices.hour=1"], "budget.money", "must be a"),
        (["budget.deadline=soon"], "budget.deadline", "must be a moment such as"),
        (["budget.gpu_hours=3"], "budget.gpu_hours", "the sweep holds no GPU"),
        (["budget.money=3"], "budget.money", "nothing has a price"),
        (["budget.hours=3"], "budget.hours", "no such setting"),
        (["cluster.prices.cpu_hour=-1"], "cluster.prices.cpu_hour", "at least 0"),
        (["cluster.prices.cpu_hours=1"], "cluster.prices.cpu_hours", "no such setting"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    planned, settings: list[str], path: str, text: str
) -> None:
    assert text in problems(planned, *settings)[path]


def test_a_continued_sweep_counts_what_it_has_spent(planned) -> None:
    first = planned("budget.minutes=3")
    folder = sweep_folder(first.config.storage, first.name)
    folder.mkdir(parents=True)
    Journal(folder).append("metrics", trial=None, step=170, metrics={"spent/minutes": 2.99})
    assert "2.99 were spent before" in problems(planned, "budget.minutes=3")["budget.minutes"]
    again = planned("budget.minutes=30")
    assert again.name == first.name, "a budget does not decide what a sweep finds"
    assert "(2.99 spent before)" in budget_lines(again)[0]
    Journal(folder).append("report", trial=1, step=20, metrics={"valid/loss": 1.0})
    assert planned("budget.minutes=3"), "what is scored can be judged, however little is left"


def test_what_is_done_is_not_counted_again_beside_what_it_has_spent(planned) -> None:
    first = planned()
    whole = first.estimate.seconds / 60
    limit = f"budget.minutes={1.2 * whole}"
    folder = sweep_folder(first.config.storage, first.name)
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.append("metrics", trial=None, step=170, metrics={"spent/minutes": 0.9 * whole})
    (line, _) = budget_lines(planned(limit))
    assert "the whole sweep takes" in line and "it ends at the limit" in line
    for trial in range(1, 5):
        journal.append("trial", trial=trial, point={"optim.lr": 0.01 * trial})
        last = 59_980 if trial == 1 else 20
        for step in {20, last}:
            journal.append("report", trial=trial, step=step, metrics={"valid/loss": 1.0})
        if trial > 1:
            journal.append("end", trial=trial, state="stopped", error=None)
    (line, _) = budget_lines(planned(limit))
    assert "what is left of the sweep takes" in line and line.endswith(": that fits")
    tokens = budget_lines(planned("budget.tokens=1e9"))[0]
    plan = first.timing
    assert float(tokens.split("about ")[1].split()[0]) == pytest.approx(
        20 * plan.batch * plan.rows.trained, rel=0.01
    )


@pytest.mark.parametrize(("state", "step"), [("finished", 20), ("failed", 0)])
def test_trials_that_go_on_are_to_come(planned, state: str, step: int) -> None:
    first = planned()
    folder = sweep_folder(first.config.storage, first.name)
    folder.mkdir(parents=True)
    journal = Journal(folder)
    for trial in range(1, 5):
        journal.append("trial", trial=trial, point={"optim.lr": 0.01 * trial})
        journal.append("report", trial=trial, step=max(step, 20), metrics={"valid/loss": 1.0})
        journal.append("end", trial=trial, state=state, error="x" if state == "failed" else None)
    plan = planned("budget.tokens=1e12", "retry=true")
    account = account_of(plan.config, plan.name)
    assert account.left_steps(plan.config, plan.estimate) > 0
    if state == "failed":
        given_up = dataclasses.replace(plan.config, retry=False)
        assert account.left_steps(given_up, plan.estimate) == 0


def test_an_object_store_tells_what_is_scored_before_a_deadline_refuses_anything(
    base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    arguments = ["model=tiny", "+sweep=lora", "data=files", f"data.folder={toy}"]
    arguments += [f"storage=s3://deadline/{tmp_path.name}", "tracking.uri=http://127.0.0.1:1"]
    arguments += ["sweep.minutes=null", "train.steps=40", "budget.deadline=2020-01-01"]
    config = build(compose(arguments, None), typed_settings(arguments))
    plan = prepared(config, None)
    with pytest.raises(ConfigError, match="comes before one trial is at its first rung"):
        as_begun(plan, config, None)
    folder = sweep_folder(config.storage, plan.name)
    folder.mkdir(parents=True)
    Journal(folder).append("report", trial=1, step=20, metrics={"valid/loss": 1.0})
    assert as_begun(plan, config, None).account.scored, "what was pulled can be judged"
