"""What a sweep has spent, counted over all its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.budget import Budget, Prices
from orchestrator.storage.journal import Journal
from orchestrator.storage.journal_reader import History
from orchestrator.storage.spending import Spending, Spent, spent_before, spent_of


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def meter(clock: Clock, budget: Budget | None = None, before: Spent | None = None) -> Spending:
    prices = Prices(cpu_hour=0.5, gpu_hour=2.0, hour=1.0)
    return Spending(budget or Budget(), prices, 4, 2, clock.seconds, before, clock)


def test_an_hour_costs_its_cores_gpus_and_what_the_hour_itself_costs() -> None:
    clock = Clock()
    spending = meter(clock)
    clock.seconds += 3600
    spending.tokens += 500
    spent = spending.now()
    assert spent == Spent(minutes=60, cpu_hours=4, gpu_hours=2, money=1 + 2 + 4, tokens=500)
    assert spent_of(spent.metrics()) == spent


def test_the_next_command_counts_on_from_what_the_journal_has(tmp_path: Path) -> None:
    clock = Clock()
    journal = Journal(tmp_path)
    first = meter(clock)
    clock.seconds += 60
    with first.recorded(journal):
        pass
    journal.append("metrics", trial=None, step=1, metrics={"system/cpu": 3.0})
    journal.append("metrics", trial=1, step=1, metrics={"spent/minutes": 99.0})
    second = meter(clock, before=spent_before(journal.events()))
    clock.seconds += 120
    second.record(journal)
    assert second.now().minutes == pytest.approx(3)
    history = History(tmp_path)
    history.update()
    assert history.spent is not None
    assert history.spent.minutes == pytest.approx(3)
    assert history.spent.words(("minutes", "money")) == "3 min, 0.35 of money"


@pytest.mark.parametrize(
    ("limits", "seconds", "first"),
    [
        ({"minutes": 10, "cpu_hours": 1}, 600, "minutes"),
        ({"minutes": 60, "cpu_hours": 1}, 900, "cpu_hours"),
        ({"gpu_hours": 0.1}, 180, "gpu_hours"),
        ({"money": 0.7}, 360, "money"),
        ({"tokens": 10}, float("inf"), None),
    ],
)
def test_the_limit_that_comes_first_counts(
    limits: dict[str, float], seconds: float, first: str | None
) -> None:
    left, name = meter(Clock(), Budget(**limits)).left_seconds()
    assert left == pytest.approx(seconds) and name == first


def test_what_is_spent_before_is_no_longer_left() -> None:
    clock = Clock()
    spending = meter(clock, Budget(minutes=10, tokens=1000), Spent(minutes=4, tokens=900))
    clock.seconds += 30
    spending.tokens += 50
    assert spending.left_seconds()[0] == pytest.approx(330)
    assert spending.tokens_left() == 50
    assert spending.words() == "spent 4.5 of 10 min, 950 of 1,000 training tokens"


def test_a_figure_that_an_editor_has_spoilt_is_none() -> None:
    assert spent_of({"spent/minutes": "x", "spent/money": float("nan"), "spent/tokens": -1}) is None
