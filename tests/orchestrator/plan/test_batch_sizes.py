"""How many examples a step takes where the batch size is searched."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.plan import sizing
from orchestrator.plan.batch_sizes import largest_batch, mean_batch
from orchestrator.plan.budget import training_tokens
from tests.support.settings import build

LINKED = "type: linked, to: adapter.rank"


@pytest.mark.parametrize(
    ("knob", "mean", "largest"),
    [
        ("type: choice, values: [8, 64]", 36, 64),
        ("type: grid, values: [8, 16, 48]", 24, 48),
        ("type: randint, low: 8, high: 32, step: 8", 20, 32),
        (f"{LINKED}, values: [64, 32, 16, 8]", 30, 64),
        (f"{LINKED}, times: 2, plus: 4", 34, 68),
    ],
)
def test_the_mean_and_the_largest_of_what_is_searched(
    knob: str, mean: float, largest: float
) -> None:
    searched = f"+sweep.space.batch={{path: train.batch_size, {knob}}}"
    config = build(compose(["model=tiny", "+sweep=lora", searched], None))
    assert mean_batch(config) == pytest.approx(mean) and largest_batch(config) == largest


def test_without_a_knob_it_is_the_setting() -> None:
    config = build(compose(["model=tiny", "+sweep=lora", "train.batch_size=24"], None))
    assert mean_batch(config) == 24 == largest_batch(config)


def test_a_plan_reckons_with_the_sizes_that_are_searched(plan: Any) -> None:
    sizes = ("+sweep=lora", "sweep.minutes=null", "sweep.num_trials=4")
    knob = "+sweep.space.batch={path: train.batch_size, type: choice, values: [64, 192]}"
    usual, large = plan(*sizes, "train.batch_size=32"), plan(*sizes, "train.batch_size=32", knob)
    assert large.timing.batch == 128
    assert training_tokens(large.timing, 10) == pytest.approx(4 * training_tokens(usual.timing, 10))
    assert large.timing.step_seconds(4) > usual.timing.step_seconds(4)
    first = [made.config.sweep.space["lr"].first[0] for made in (large, usual)]
    assert first[0] / first[1] == pytest.approx(math.sqrt(4), rel=0.1)
    rows = {"train": 100_000}
    assert sizing.most_steps(large.config, rows) == math.ceil(20 * 100_000 / 192)
