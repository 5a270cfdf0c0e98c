"""Intervals that hold what they promise, paired comparisons, and what so many rows can show."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.evaluation.comparison import (
    compare,
    false_discoveries_held,
    mcnemar,
    share_difference,
    smallest_difference,
)
from jobs.evaluation.intervals import mean_interval


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_95_percent_intervals_hold_the_truth(share: float) -> None:
    drawn = np.random.default_rng(int(1000 * share))
    held, times = 0, 4_000
    for _ in range(times):
        rows = int(drawn.integers(50, 851))
        low, high = mean_interval((drawn.random(rows) < share).astype(float), 0.95)
        held += low <= share <= high
    assert 0.93 <= held / times <= 0.97


def test_an_interval_of_a_skewed_score_holds_its_mean() -> None:
    drawn = np.random.default_rng(3)
    held, times = 0, 150
    for _ in range(times):
        low, high = mean_interval(list(drawn.exponential(1.0, 200)), 0.95)
        held += low <= 1.0 <= high
    assert held / times >= 0.89


def test_no_hit_and_all_hits_have_a_width_and_no_rows_are_refused() -> None:
    assert mean_interval([0.0] * 50, 0.95)[1] > 0.05
    assert mean_interval([1.0] * 50, 0.95)[0] < 0.95
    assert mean_interval([0.5] * 50, 0.95) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no rows"):
        mean_interval([], 0.95)


def test_mcnemar_is_the_sign_test_on_the_rows_that_differ() -> None:
    assert mcnemar(5, 0) == pytest.approx(1 / 32)
    assert mcnemar(0, 0) == 1.0
    result = compare([1.0] * 5 + [0.0] * 95, [0.0] * 100)
    assert (result.wins, result.losses, result.difference) == (5, 0, 0.05)
    assert result.p_value == pytest.approx(1 / 32)


def test_a_difference_of_losses_has_its_sign_and_an_interval_around_it() -> None:
    drawn = np.random.default_rng(0).normal(1.0, 0.2, 200)
    better = compare(list(drawn - 0.1 * drawn), list(drawn), higher_is_better=False)
    assert better.p_value < 0.01 and better.low < better.difference < better.high < 0
    assert compare(list(drawn), list(drawn)).p_value == 1.0


def test_models_that_never_differ_still_have_a_width() -> None:
    low, high = share_difference(0, 0, 100, 0.95)
    assert low < 0 < high


@pytest.mark.parametrize("rows", [50, 100, 400, 850])
def test_the_smallest_difference_is_noticed_four_times_in_five(rows: int) -> None:
    difference = smallest_difference(rows, 0.05)
    assert difference is not None
    drawn, noticed = np.random.default_rng(rows), 0
    chances = [(0.25 + difference) / 2, (0.25 - difference) / 2, 0.75]
    for _ in range(1_000):
        wins, losses, _ = drawn.multinomial(rows, chances)
        noticed += mcnemar(int(wins), int(losses)) <= 0.05
    assert 0.74 <= noticed / 1_000 <= 0.88


def test_too_few_rows_can_show_nothing() -> None:
    assert smallest_difference(4, 0.05) is None
    assert smallest_difference(5, 0.05) == 1.0


def test_false_discoveries_are_held_by_benjamini_and_hochberg() -> None:
    assert false_discoveries_held([0.03]) == [0.03]
    assert false_discoveries_held([0.01, 0.04, 0.5]) == pytest.approx([0.03, 0.06, 0.5])
