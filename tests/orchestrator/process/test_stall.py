"""No command waits for ever for a task that tells of nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.evaluation import held_out_judge
from orchestrator.process import stall
from orchestrator.sweep import mixture_scores


def test_what_goes_on_is_never_given_up() -> None:
    seconds = [0.0]
    watch = stall.StallWatch(100, lambda: seconds[0])
    for done in range(10):
        seconds[0] += watch.most_seconds
        assert watch.why_over(done) is None
    seconds[0] += watch.most_seconds + 1
    why = watch.why_over(9)
    assert why is not None and why.startswith("no progress for 2.8 hours")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray with tasks that never end and tell of nothing, to those who wait no time for them."""
    monkeypatch.setattr(stall, "STALL_SECONDS", -1.0)
    monkeypatch.setattr(stall, "ROW_SECONDS", 0.0)
    ray = MagicMock()
    ray.wait.side_effect = lambda waiting, timeout: ([], waiting)
    ray.get.return_value = []
    return ray


def test_a_judgement_that_tells_of_nothing_is_given_up(
    silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out_judge, "ray", silent)
    judge = held_out_judge.HeldOutJudge.__new__(held_out_judge.HeldOutJudge)
    judge.drain = lambda: None
    judge.screen = SimpleNamespace(furthest={})
    judge.plan = SimpleNamespace(num_test=5)
    with pytest.raises(OrchestratorError, match="judging has made no progress for .* hours"):
        judge.awaited(["one", "other"])
    assert [call.args[0] for call in silent.cancel.call_args_list] == ["one", "other"]


def test_mixtures_whose_scores_do_not_come_are_given_up(
    silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture_scores, "ray", silent)
    monkeypatch.setattr(mixture_scores, "task_of", lambda *arguments: SimpleNamespace(at_once=6))
    plan = MagicMock(num_scored=5)
    plan.resources.share.return_value = (1, 0)
    with pytest.raises(OrchestratorError, match="scoring the merged mixtures has made no progress"):
        mixture_scores.score_candidates(plan, MagicMock(), MagicMock(), MagicMock(), lambda: False)
    assert silent.cancel.called


def test_a_budget_ends_the_scoring_of_mixtures(
    silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALL_SECONDS", 3600.0)
    monkeypatch.setattr(mixture_scores, "ray", silent)
    monkeypatch.setattr(mixture_scores, "task_of", lambda *arguments: SimpleNamespace(at_once=6))
    plan = MagicMock(num_scored=5)
    plan.resources.share.return_value = (1, 0)
    limits = iter([None, "budget.minutes=1 is spent"])
    parts = (plan, MagicMock(), MagicMock(), MagicMock())
    with pytest.raises(OrchestratorError, match="budget.minutes=1 is spent"):
        mixture_scores.score_candidates(*parts, lambda: False, lambda: next(limits))
    assert silent.cancel.called
