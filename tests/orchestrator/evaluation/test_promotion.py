"""The rule by which a candidate replaces the champion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jobs.evaluation.metrics import interval
from orchestrator.config.settings import Registry
from orchestrator.evaluation.promotion import Candidate, Rival, Scores, decide, select


def scores(right: int, rows: int = 100, digest: str = "d1", start: int = 0) -> Scores:
    """A model that is right on `right` rows from `start` on."""
    hits = [start <= number < start + right for number in range(rows)]
    low, high = interval(hits, 0.95)
    return Scores(right / rows, low, high, rows, digest, tuple(map(float, hits)))


def candidate(right: int, **settings: Any) -> Candidate:
    return Candidate("candidate", scores(right), **settings)


BASE = Rival("base", "the untouched base model", scores(5))
LOOKUP = Rival("baselines", "the answer of the nearest training prompt", scores(50))
CHAMPION = Rival("champion", "the champion", scores(40))


@pytest.mark.parametrize(
    ("right", "rivals", "settings", "promote", "says"),
    [
        (60, [BASE, LOOKUP, CHAMPION], {}, True, "beats the champion's 0.4"),
        (45, [BASE, LOOKUP, CHAMPION], {}, False, "does not beat the answer of the nearest"),
        (45, [BASE, LOOKUP, CHAMPION], {"beat": ["base", "champion"]}, True, "beats the champion"),
        (40, [BASE, CHAMPION], {}, False, "a tie keeps the champion"),
        (30, [BASE, CHAMPION], {}, False, "does not beat the champion's"),
        (43, [BASE, CHAMPION], {}, False, "by more than chance may give"),
        (43, [BASE, CHAMPION], {"error_rate": 0.2}, True, "beats the champion"),
        (60, [CHAMPION], {"margin": 0.3}, False, "registry.margin=0.3"),
        (60, [CHAMPION], {"floor": 0.7}, False, "registry.floor=0.7"),
        (30, [CHAMPION], {"beat": []}, True, "registry.beat=[]"),
        (0, [], {}, True, "there is no champion yet"),
        (5, [BASE], {}, False, "only equals the untouched base model's"),
    ],
)
def test_the_rule_by_table(
    right: int, rivals: list[Rival], settings: dict[str, Any], promote: bool, says: str
) -> None:
    decision = decide(candidate(right), rivals, Registry(**settings))
    assert decision.promote is promote
    assert says in decision.reason
    assert all(len(reason) < 200 and "rows)" not in reason for reason in decision.reasons)
    told = [rival.name for rival in rivals if any(rival.name in r for r in decision.reasons)]
    assert decision.reasons == () or told or "registry." in decision.reasons[0]


def test_limits_of_size_and_time_hold_back_a_better_model() -> None:
    big = candidate(60, megabytes=900.0, seconds=2.0)
    assert "registry.max_megabytes=500" in decide(big, [], Registry(max_megabytes=500.0)).reason
    assert "registry.max_seconds=1" in decide(big, [], Registry(max_seconds=1.0)).reason
    assert decide(big, [], Registry(max_megabytes=1000.0, max_seconds=3.0)).promote


def test_a_regression_on_a_slice_can_be_forbidden() -> None:
    before = Rival("champion", "the champion", scores(40, start=60))
    slices = {"label=a": list(range(60, 100)), "label=b": list(range(60))}
    now = candidate(60, slices=slices)
    assert decide(now, [before], Registry(error_rate=0.05)).promote
    refused = decide(now, [before], Registry(forbid_slice_regression=True))
    assert not refused.promote and "label=a (0 after 1, 40 rows" in refused.reason


def test_a_slice_that_cannot_be_compared_is_no_slice_that_does_not_lose() -> None:
    """Macro F1 and functions of one number have no score of a single row."""
    before = Rival("champion", "the champion", Scores(0.4, 0.3, 0.5, 100, "d1"))
    now = Candidate("c", Scores(0.9, 0.8, 1.0, 100, "d1"), slices={"label=a": [0, 1]})
    assert decide(now, [before], Registry()).promote
    refused = decide(now, [before], Registry(forbid_slice_regression=True))
    assert not refused.promote and "needs a score for each row" in refused.reason


def test_a_metric_that_is_no_mean_is_compared_on_samples_of_the_rows() -> None:
    """Mean scores of rows may differ in the other direction."""
    better, worse = tuple(0.1 + n / 1000 for n in range(100)), tuple(n / 1000 for n in range(100))
    rows = tuple([0.0] * 90 + [1.0] * 10)
    now = Scores(0.6, 0.55, 0.65, 100, "d1", rows, better)
    before = Rival("base", "the base", Scores(0.5, 0.45, 0.55, 100, "d1", rows[::-1], worse))
    decision = decide(Candidate("c", now), [before], Registry(beat=["base"]))
    assert decision.promote and "p=0.0099 on the same rows" in decision.reason
    other = Rival("base", "the base", Scores(0.5, 0.45, 0.55, 100, "d1", rows))
    apart = decide(Candidate("c", now), [other], Registry(beat=["base"]))
    assert "row by row is not known" in apart.reason
    lower = decide(Candidate("c", before.scores), [Rival("base", "b", now)], Registry(), False)
    assert lower.promote, "where less is better"


def test_where_lower_is_better_the_lower_score_wins() -> None:
    drawn = np.random.default_rng(0).normal(1.0, 0.1, 100)
    low = Scores(0.8, 0.7, 0.9, 100, "d1", tuple(drawn - 0.2))
    high = Scores(1.0, 0.9, 1.1, 100, "d1", tuple(drawn + 0.01 * drawn))
    rival = Rival("champion", "the champion", high)
    assert decide(Candidate("c", low), [rival], Registry(), higher_is_better=False).promote
    assert not decide(Candidate("c", low), [rival], Registry()).promote


def test_a_champion_of_other_test_rows_is_called_one() -> None:
    rival = Rival("champion", "the champion", scores(40), "the champion was chosen by other rows")
    for right in (20, 40, 60):
        assert decide(candidate(right), [rival], Registry()).reason.endswith(rival.remark)


def test_a_score_that_is_not_a_number_never_wins_and_never_stays() -> None:
    broken = Scores(math.nan, math.nan, math.nan, 100, "d1")
    assert not decide(Candidate("c", broken), [], Registry()).promote
    assert decide(candidate(1), [Rival("champion", "the champion", broken)], Registry()).promote


def test_scores_on_different_test_sets_are_not_compared() -> None:
    rival = Rival("champion", "the champion", scores(1, digest="d2"))
    with pytest.raises(ValueError, match="candidate on d1, champion on d2"):
        decide(candidate(90), [rival], Registry())


def test_of_tied_candidates_the_smallest_asks_for_the_alias() -> None:
    models = [
        Candidate("large", scores(62), megabytes=30.0),
        Candidate("small", scores(61), megabytes=10.0),
        Candidate("poor", scores(20), megabytes=1.0),
    ]
    chosen = select(models, [CHAMPION], Registry())
    assert chosen.chosen.name == "small" and chosen.tied == ("small", "large")
    assert chosen.compared == 3 and chosen.decision.promote


@pytest.mark.parametrize(("count", "share"), [(1, 0.25), (1, 0.6), (20, 0.25)])
def test_equal_models_are_promoted_no_more_often_than_the_error_rate(
    count: int, share: float
) -> None:
    drawn = np.random.default_rng(count)
    rows, promoted, times = 200, 0, 200
    for _ in range(times):
        hits = (drawn.random((count + 1, rows)) < share).astype(float)
        means = hits.mean(axis=1)
        told = [
            Scores(float(mean), 0.0, 1.0, rows, "d", tuple(row))
            for mean, row in zip(means, hits, strict=True)
        ]
        models = [Candidate(str(n), one) for n, one in enumerate(told[1:])]
        rival = Rival("champion", "the champion", told[0])
        best = max(models, key=lambda one: one.scores.value)
        promoted += decide(best, [rival], Registry(), compared=models).promote
    # Two standard errors of a share of 0.05 in 200 samples.
    assert promoted / times <= 0.05 + 0.031


def test_of_several_candidates_that_lose_to_a_lookup_none_is_said_to_lose_to_the_base() -> None:
    several = [Candidate("a", scores(30)), Candidate("b", scores(28))]
    decision = decide(several[0], [BASE, LOOKUP], Registry(), True, several)
    assert not decision.promote
    assert decision.lost_to == ("baselines",), "30 of 100 rows against 5 is no chance"
    close = [Candidate("a", scores(12)), Candidate("b", scores(11))]
    told = decide(close[0], [BASE], Registry(error_rate=0.01), True, close).reason
    assert "over all candidates p up to 0.005" in told
