"""Settings that ruin a trial are a lesson for the search: they count as the worst score so far."""

from __future__ import annotations

import math
from typing import Any

from jobs.config import Optim
from jobs.training.optimizer import not_finite
from orchestrator.config.compose import compose
from orchestrator.storage.journal import Record
from orchestrator.sweep.sampler import Sampler, is_not_finite
from tests.support.settings import build

EDGE = 1e-3
"""Above this rate every trial is ruined."""


def config_of() -> Any:
    settings = ["+sweep=lora", "model=tiny", "sweep.search=optuna", "sweep.metric=valid/loss"]
    settings += ["sweep.space.lr.low=0.00001", "sweep.space.lr.high=0.1"]
    return build(compose(settings, None))


def ruined_proposals(lesson: bool) -> int:
    """How many of the later points of a search lie where trials are ruined."""
    sampler = Sampler(config_of(), 40, {})
    count = 0
    for index in range(1, 41):
        rate = float(sampler.next_point(index)["optim.lr"])
        ruined = rate > EDGE
        count += ruined and index > 12
        loss = abs(math.log10(rate) + 3.5)
        sampler.ended(index, None if ruined else loss, is_bad=ruined and lesson)
    return count


def test_the_search_keeps_away_from_where_trials_are_ruined() -> None:
    assert ruined_proposals(lesson=True) < ruined_proposals(lesson=False)


def test_a_ruined_trial_of_an_earlier_run_is_learned_too() -> None:
    error = not_finite(7, Optim(lr=0.05))
    assert is_not_finite(error) and not is_not_finite("out of memory") and not is_not_finite(None)
    point = {"adapter.rank": 8}
    records = {
        1: Record(1, {"optim.lr": 0.0003, **point}, {10: {"valid/loss": 2.0}}, "finished"),
        2: Record(2, {"optim.lr": 0.0001, **point}, {10: {"valid/loss": 3.0}}, "stopped"),
        3: Record(3, {"optim.lr": 0.05, **point}, {}, "failed", error),
        4: Record(4, {"optim.lr": 0.04, **point}, {}, "failed", "out of memory"),
    }
    study = Sampler(config_of(), 8, records)._optuna
    assert study is not None and study.worst() == 3.0
    values = sorted(trial.value for trial in study._study.get_trials() if trial.value is not None)
    assert values == [2.0, 3.0, 3.0], "the ruined one has the worst score; the other is unknown"
