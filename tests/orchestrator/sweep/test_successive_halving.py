"""Synchronous halving: counts, ties, what is not a number, and trials that leave. The order of
arrival is in test_sweep_logic.py.
"""

from __future__ import annotations

import itertools
import math
import random

import pytest

from orchestrator.config.compose import compose
from orchestrator.plan.rungs import rung_steps, survivors
from orchestrator.sweep.successive_halving import SuccessiveHalving, two_standard_errors
from tests.support.settings import build

NAN = float("nan")


def judge(scores: list[float], reduction: int = 2, maximise: bool = True) -> list[int]:
    """Who goes on after one rung, by index from 1."""
    halving = SuccessiveHalving(len(scores), [10, 20], reduction, maximise)
    for trial, score in enumerate(scores, start=1):
        halving.report(trial, 10, score)
    return [trial for trial in range(1, len(scores) + 1) if halving.decide(trial) == "go on"]


@pytest.mark.parametrize(
    ("count", "reduction", "expected"),
    [
        (1, 2, 1),
        (2, 2, 1),
        (3, 2, 2),
        (6, 2, 3),
        (7, 2, 4),
        (6, 3, 2),
        (7, 3, 3),
        (3, 4, 1),
        (9, 4, 3),
    ],
)
def test_a_rung_keeps_one_in_reduction_rounded_up(
    count: int, reduction: int, expected: int
) -> None:
    assert (
        len(judge([float(i) for i in range(count)], reduction))
        == expected
        == math.ceil(count / reduction)
    )
    assert survivors(count, [10, 20], reduction) == [count, expected]


def test_one_lucky_row_does_not_outweigh_the_loss() -> None:
    halving = SuccessiveHalving(3, [10, 20], 3, maximise=True, rows=400)
    for trial, (score, loss) in enumerate([(1 / 400, 2.4), (0.0, 1.9), (0.0, 2.1)], start=1):
        halving.report(trial, 10, score, loss)
    assert [halving.decide(trial) for trial in (1, 2, 3)] == ["stop", "go on", "stop"]


def test_a_clear_difference_decides_whatever_the_loss() -> None:
    halving = SuccessiveHalving(3, [10, 20], 3, maximise=True, rows=400)
    for trial, (score, loss) in enumerate([(0.20, 2.4), (0.10, 1.9), (float("nan"), 1.0)], start=1):
        halving.report(trial, 10, score, loss)
    assert [halving.decide(trial) for trial in (1, 2, 3)] == ["go on", "stop", "stop"]


def kept(hits: list[int], losses: list[float], rows: int, reduction: int) -> list[int]:
    """Who goes on after one rung on so many rows, by index from 1."""
    halving = SuccessiveHalving(len(hits), [10, 20], reduction, maximise=True, rows=rows)
    for trial, (count, loss) in enumerate(zip(hits, losses, strict=True), start=1):
        halving.report(trial, 10, count / rows, loss)
    return [trial for trial in range(1, len(hits) + 1) if halving.decide(trial) == "go on"]


@pytest.mark.parametrize("rows", [50, 400, 1000])
@pytest.mark.parametrize("from_the_end", [False, True], ids=["near no hit", "near all hits"])
def test_neighbouring_counts_are_equal_wherever_they_lie(rows: int, from_the_end: bool) -> None:
    for fewer in range(rows):
        counts = [fewer, fewer + 1]
        if from_the_end:
            counts = [rows - fewer - 1, rows - fewer]
        assert kept(counts, [1.0, 2.0], rows, 2) == [1], (
            f"{counts} of {rows}: the far better loss decides"
        )


@pytest.mark.parametrize("seed", range(200))
def test_who_is_kept_is_never_clearly_worse_nor_equal_with_a_higher_loss_than_who_is_stopped(
    seed: int,
) -> None:
    stream = random.Random(seed)
    rows, count, reduction = (
        stream.choice([20, 400, 5000]),
        stream.randint(2, 16),
        stream.randint(2, 4),
    )
    middle = stream.randint(0, rows)
    hits = [
        min(rows, max(0, round(stream.gauss(middle, stream.choice([1, 5, rows / 5])))))
        for _ in range(count)
    ]
    losses = [stream.choice([1.0, 1.5, stream.random()]) for _ in range(count)]
    going = kept(hits, losses, rows, reduction)
    assert len(going) == math.ceil(count / reduction)
    for winner, loser in itertools.product(going, set(range(1, count + 1)) - set(going)):
        better, worse = hits[winner - 1] / rows, hits[loser - 1] / rows
        error = max(two_standard_errors(share, rows) for share in (better, worse))
        assert worse - better <= error + 1e-12, "clearly worse, and kept"
        if better <= worse:
            assert losses[winner - 1] <= losses[loser - 1], "no better by either measure, and kept"
    best = max(hits) / rows
    equal = [
        trial
        for trial in range(1, count + 1)
        if best - hits[trial - 1] / rows <= two_standard_errors(best, rows)
    ]
    first = sorted(equal, key=lambda trial: (losses[trial - 1], trial))[: len(going)]
    assert set(first) <= set(going), "of those that equal the best the lower losses come first"
    renamed = stream.sample(range(count), count)
    if len(set(losses)) == count:
        again = kept(
            [hits[place] for place in renamed],
            [losses[place] for place in renamed],
            rows,
            reduction,
        )
        assert {renamed[trial - 1] + 1 for trial in again} == set(going), (
            "whatever the trials' order"
        )


def test_an_error_is_never_nothing_and_that_of_the_textbook_in_the_middle() -> None:
    assert two_standard_errors(0.0, 400) == two_standard_errors(1.0, 400) == pytest.approx(2 / 404)
    assert two_standard_errors(0.5, 400) == pytest.approx(2 * math.sqrt(0.25 / 400), rel=0.01)


def test_better_means_higher_or_lower_as_the_metric_says() -> None:
    assert judge([0.1, 0.4, 0.2, 0.3]) == [2, 4]
    assert judge([0.1, 0.4, 0.2, 0.3], maximise=False) == [1, 3]


@pytest.mark.parametrize("maximise", [True, False])
def test_what_is_not_a_number_loses_to_any_number(maximise: bool) -> None:
    assert judge([NAN, 5.0, NAN, -5.0], maximise=maximise) == [2, 4]
    assert judge([NAN, NAN, NAN, 0.0], maximise=maximise) == [1, 4]


def test_equal_scores_keep_the_earlier_trials() -> None:
    assert judge([0.0] * 5) == [1, 2, 3]


def test_a_missing_loss_is_no_advantage_among_equals() -> None:
    halving = SuccessiveHalving(2, [10, 20], 2, maximise=True)
    halving.report(1, 10, 0.0, NAN)
    halving.report(2, 10, 0.0, 3.0)
    assert [halving.decide(trial) for trial in (1, 2)] == ["stop", "go on"]


def test_nobody_goes_on_before_the_last_trial_has_arrived() -> None:
    for order in itertools.permutations((1, 2, 3)):
        halving = SuccessiveHalving(3, [10, 20], 2, maximise=True)
        assert [halving.report(trial, 10, trial / 10) for trial in order[:2]] == ["wait", "wait"]
        assert halving.report(order[2], 10, order[2] / 10) == ("stop" if order[2] == 1 else "go on")


def test_trials_that_leave_shrink_the_rung_and_never_return() -> None:
    halving = SuccessiveHalving(4, [10, 20], 2, maximise=True)
    halving.report(1, 10, 0.9)
    halving.leave(1)
    for trial in (2, 3):
        assert halving.report(trial, 10, 0.1 * trial) == "wait"
    assert halving.report(4, 10, 0.4) == "go on", "two of the three that are left go on"
    assert [halving.decide(trial) for trial in (2, 3, 4)] == ["stop", "go on", "go on"]
    assert halving.report(1, 10, 9.0) == "go on", (
        "who has ended is neither kept waiting nor stopped again"
    )


def test_trials_that_were_outrun_inside_a_rung_have_lost_it() -> None:
    halving = SuccessiveHalving(6, [10, 20, 30], 3, maximise=True)
    for trial in (1, 2, 3, 4):
        halving.leave(trial, outrun=True)
    halving.report(5, 10, 0.1)
    halving.report(6, 10, 0.2)
    assert [halving.decide(trial) for trial in (5, 6)] == ["go on", "go on"], "2 of the 6"
    halving.report(5, 20, 0.3)
    halving.report(6, 20, 0.2)
    assert [halving.decide(trial) for trial in (5, 6)] == ["go on", "stop"], "1 of the 2"


def test_all_may_leave() -> None:
    halving = SuccessiveHalving(2, [10, 20], 2, maximise=True)
    halving.leave(1)
    halving.leave(2)
    assert halving.report(2, 10, 0.5) == "go on"


def test_a_bracket_replayed_trial_by_trial_decides_the_same() -> None:
    first, again = (
        SuccessiveHalving(6, [10, 20, 40], 2, True),
        SuccessiveHalving(6, [10, 20, 40], 2, True),
    )
    made = []
    for step, trial in itertools.product((10, 20, 40), range(1, 7)):
        if first.decide(trial) == "go on":
            made.append((trial, step, (trial * 7 % 5) / 10))
            first.report(*made[-1])
    assert len(made) == 6 + 3 + 2
    for report in [*sorted(made), *made]:
        again.report(*report)
    assert [first.decide(t) for t in range(1, 7)] == [again.decide(t) for t in range(1, 7)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train.steps=160", "train.eval_every=20", "sweep.reduction=2"], [20, 40, 80, 160]),
        (["train.steps=150", "train.eval_every=20", "sweep.reduction=3"], [20, 60, 150]),
        (["train.steps=20", "train.eval_every=20"], [20]),
        (["train.steps=10", "train.eval_every=20"], [10]),
        (["train.steps=160", "train.eval_every=20", "sweep.scheduler=none"], [160]),
    ],
)
def test_rungs_lie_at_powers_and_end_at_the_last_step(
    arguments: list[str], expected: list[int]
) -> None:
    assert rung_steps(build(compose(["+sweep=lora", *arguments], None))) == expected
