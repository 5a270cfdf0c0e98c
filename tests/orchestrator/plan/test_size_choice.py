"""The arithmetic of a size that fills a time: trials, rungs and steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.plan import sizing
from orchestrator.plan.finalists import final_plan
from orchestrator.plan.model_shape import Shape
from orchestrator.plan.resources import Node, Resources
from orchestrator.plan.row_counts import RowCounts
from orchestrator.plan.rungs import rung_steps, survivors
from orchestrator.plan.sizing import Limits, Sizes, TooShort, choose, with_sizes
from orchestrator.plan.timing import Speed, Timing
from tests.support.settings import build

LARGE = Shape(layers=30, layer_weights=106e6, head_weights=28e6)
TINY = Shape(layers=2, layer_weights=1e5, head_weights=1e5)
FAST, SLOW = 340e9, 30e9


LABELS = RowCounts(tokens=25, answer=4, valid=400, scored=200, test=850, reply=4, limit=4)
TEXTS = RowCounts(tokens=120, answer=20, valid=100, scored=100, test=220, reply=20, limit=190)


def seconds_of(
    shape: Shape, flops: float, rows: RowCounts = LABELS, metric: str = "exact_match"
) -> Any:
    """What a sweep of the default takes on a model of that shape and a machine of that rate."""
    config = build(compose(["model=tiny", "+sweep=lora", f"sweep.metric={metric}"], None))
    speed = Speed(flops, flops, 1.0, "")

    def seconds(num_trials: int, steps: int, eval_every: int) -> float:
        sized = with_sizes(config, Sizes(num_trials, steps, eval_every))
        resources = Resources(min(num_trials, 12), 1, 2, 0, (Node(2),), 1)
        timing = Timing(sized, shape, rows, resources, speed, 0.2)
        return timing.total(num_trials, final_plan(sized, num_trials))

    return seconds


@pytest.mark.parametrize(
    ("shape", "flops", "minutes", "rows", "trials", "steps"),
    [
        (LARGE, FAST, 15, 27_000, (3, 9), (100, 2_000)),
        (LARGE, SLOW, 90, 27_000, (1, 6), (12, 600)),
        (LARGE, FAST, 120, 27_000, (12, 12), (1_200, 17_000)),
        (TINY, FAST, 15, 27_000, (12, 12), (1_200, 17_064)),
        (TINY, FAST, 15, 240, (12, 12), (144, 150)),
    ],
)
def test_the_size_fills_the_time(
    shape: Shape,
    flops: float,
    minutes: float,
    rows: int,
    trials: tuple[int, int],
    steps: tuple[int, int],
) -> None:
    seconds = seconds_of(shape, flops)
    most = -(-sizing.MOST_EPOCHS * rows // 32)
    sizes = choose(seconds, 60 * minutes, Limits(most_steps=most))
    took = seconds(sizes.num_trials, sizes.steps, sizes.eval_every)
    assert trials[0] <= sizes.num_trials <= trials[1], sizes
    assert steps[0] <= sizes.steps <= steps[1], sizes
    assert sizes.steps == sizing.RUNGS * sizes.eval_every
    full = sizes.steps + sizing.RUNGS > most
    assert took <= 60 * minutes and (full or took > 0.85 * 60 * minutes), took


def test_long_answers_are_judged_at_fewer_rungs_where_that_leaves_time_to_train() -> None:
    seconds = seconds_of(LARGE, FAST, TEXTS, "chrf")
    sizes = choose(seconds, 900, Limits(most_steps=20_000))
    assert sizes.steps == sizing.FEW_RUNGS * sizes.eval_every
    assert sizes.num_trials <= sizing.MOST_TRIALS_AT_FEW_RUNGS
    often = dataclasses.replace(sizes, eval_every=sizes.steps // sizing.RUNGS)
    assert seconds(often.num_trials, often.steps, often.eval_every) > 900
    asked = choose(seconds, 900, Limits(eval_every=2, most_steps=20_000))
    assert asked.eval_every == 2, "which was chosen"


def test_more_time_is_never_a_smaller_sweep() -> None:
    seconds = seconds_of(LARGE, FAST)
    reached = [
        choose(seconds, 60 * minutes, Limits(most_steps=20_000)) for minutes in (12, 20, 40, 90)
    ]
    assert [sizes.num_trials for sizes in reached] == sorted(sizes.num_trials for sizes in reached)
    totals = [seconds(sizes.num_trials, sizes.steps, sizes.eval_every) for sizes in reached]
    assert totals == sorted(totals)


def test_rows_that_are_few_leave_time_for_more_trials() -> None:
    sizes = choose(seconds_of(TINY, FAST), 900, Limits(most_steps=150, most_trials=48))
    assert sizes.num_trials > 12 and sizes.steps <= 150


def test_what_was_chosen_wins_and_the_rest_follows() -> None:
    seconds = seconds_of(LARGE, FAST)
    three = choose(seconds, 900, Limits(num_trials=3, most_steps=20_000))
    assert three.num_trials == 3 and seconds(3, three.steps, three.eval_every) > 0.9 * 900
    short = choose(seconds, 900, Limits(steps=60, eval_every=20, most_trials=48))
    assert (short.steps, short.eval_every) == (60, 20)
    assert seconds(short.num_trials, 60, 20) <= 900 < seconds(short.num_trials + 1, 60, 20)
    every = choose(seconds, 900, Limits(eval_every=25, most_steps=20_000))
    assert every.eval_every == 25 and every.steps % 25 == 0


def test_a_time_that_is_too_short_names_what_works() -> None:
    seconds = seconds_of(LARGE, SLOW)
    with pytest.raises(TooShort) as error:
        choose(seconds, 60, Limits())
    enough = 60 * (error.value.seconds // 60 + 1)
    assert choose(seconds, enough, Limits()).num_trials == 1
    with pytest.raises(TooShort):
        choose(seconds, error.value.seconds - 1, Limits())


def dear_evaluations() -> Any:
    """A start of 40 seconds, and under halving half a second a step and 8 an evaluation."""
    config = build(compose(["model=tiny", "+sweep=lora"], None))

    def seconds(num_trials: int, steps: int, eval_every: int) -> float:
        rungs = rung_steps(with_sizes(config, Sizes(num_trials, steps, eval_every)))
        total = 40.0
        counts = survivors(num_trials, rungs, config.sweep.reduction)
        for begin, end, count in zip([0, *rungs], rungs, counts, strict=False):
            evaluations = -(-end // eval_every) - begin // eval_every
            total += count * ((end - begin) * 0.5 + 8 * evaluations)
        return total

    return seconds


def test_many_trials_that_were_chosen_are_judged_at_fewer_rungs_where_else_they_do_not_fit() -> (
    None
):
    limits = Limits(num_trials=6, most_steps=20_000)
    seconds = dear_evaluations()
    assert seconds(6, 12, 1) > 180
    sizes = choose(seconds, 180, limits)
    assert sizes.num_trials == 6 and sizes.steps == sizing.FEW_RUNGS * sizes.eval_every
    with pytest.raises(TooShort) as error:
        choose(seconds, 120, limits)
    assert choose(seconds, error.value.seconds, limits) == error.value.smallest
