"""+sweep=pareto with a budget: no base is paid for in vain, and what has a score is compared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.commands import pareto, pareto_budget
from orchestrator.errors import ConfigError, OrchestratorError


class Bases:
    """Sweeps over two bases that take no time, and what the budget leaves for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[Any] = [
            SimpleNamespace(
                config=SimpleNamespace(
                    model=SimpleNamespace(name=name),
                    budget=SimpleNamespace(is_set=True),
                    cluster=SimpleNamespace(kind="local"),
                )
            )
            for name in ("small", "large")
        ]
        self.unpaid: set[str] = set()
        """Bases that the budget does not pay any more."""
        self.scored: set[str] = set()
        self.trained: list[str] = []
        self.last = ""
        """The base that uses up what is left."""
        self.failing = ""
        monkeypatch.setattr(pareto_budget.planning, "make", self.plan)
        monkeypatch.setattr(pareto, "result_of", self.train)

    def plan(self, config: Any) -> Any:
        name = config.model.name
        if name in self.unpaid - self.scored:
            raise ConfigError([("budget.deadline", "comes before one trial is at its first rung")])
        return SimpleNamespace(account=SimpleNamespace(scored=name in self.scored))

    def train(self, part: Any, folder: str | None) -> Any:
        name = part.config.model.name
        self.trained.append(name)
        if name == self.last:
            self.unpaid = {"small", "large"}
        if name == self.failing:
            raise OrchestratorError(f"{name}: it has failed")
        self.scored.add(name)
        return f"result of {name}"

    def results(self) -> tuple[list[Any], dict[str, str]]:
        infeasible: dict[str, str] = {}
        results = pareto.results_of(self.parts, infeasible, None)
        return [result for _, result in results], infeasible


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> Bases:
    return Bases(monkeypatch)


def test_a_base_that_cannot_be_paid_is_refused_before_another_one_is(bases: Bases) -> None:
    bases.unpaid = {"large"}
    with pytest.raises(ConfigError) as refused:
        bases.results()
    ((path, text),) = refused.value.problems
    assert path == "budget.deadline" and text.endswith("(for large)") and bases.trained == []


def test_what_the_first_base_leaves_no_budget_for_is_left_out(bases: Bases) -> None:
    bases.last = "small"
    results, infeasible = bases.results()
    assert results == ["result of small"] and bases.trained == ["small"]
    assert infeasible == {"large": "budget.deadline comes before one trial is at its first rung"}
    assert bases.results() == (results, infeasible), "the same command again"


def test_a_base_that_its_budget_ends_without_a_score_is_left_out(
    bases: Bases, capsys: pytest.CaptureFixture[str]
) -> None:
    bases.last = bases.failing = "large"
    results, infeasible = bases.results()
    assert results == ["result of small"] and set(infeasible) == {"large"}
    assert "large: it has failed" in capsys.readouterr().err


def test_where_no_base_has_a_result_the_budget_is_named(bases: Bases) -> None:
    bases.last = bases.failing = "small"
    with pytest.raises(OrchestratorError, match="small: budget.deadline comes .*; large: budget"):
        bases.results()


def test_what_fails_for_another_reason_is_told(bases: Bases) -> None:
    bases.failing = "large"
    with pytest.raises(OrchestratorError, match="large: it has failed"):
        bases.results()
