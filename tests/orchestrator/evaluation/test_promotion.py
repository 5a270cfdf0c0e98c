"""The rule by which a candidate replaces the champion."""

from __future__ import annotations

import math

import pytest

from orchestrator.evaluation.promotion import Scores, decide


def scores(value: float, digest: str = "d1") -> Scores:
    return Scores(value=value, low=value - 0.02, high=value + 0.02, rows=850, digest=digest)


def test_a_better_candidate_takes_the_alias_and_the_reason_has_the_numbers():
    decision = decide(scores(0.31), scores(0.27))
    assert decision.promote
    assert (
        decision.reason
        == "0.31 (0.29..0.33, 850 rows) beats the champion's 0.27 (0.25..0.29, 850 rows); the intervals overlap"
    )


def test_a_clear_win_does_not_speak_of_overlap():
    assert "overlap" not in decide(scores(0.5), scores(0.27)).reason


def test_a_tie_keeps_the_champion():
    decision = decide(scores(0.27), scores(0.27))
    assert not decision.promote and "tie" in decision.reason


def test_a_worse_candidate_keeps_the_champion():
    assert not decide(scores(0.2), scores(0.27)).promote


def test_where_lower_is_better_the_lower_score_wins():
    assert decide(scores(1.1), scores(1.2), higher_is_better=False).promote
    assert not decide(scores(1.2), scores(1.1), higher_is_better=False).promote


@pytest.mark.parametrize(("value", "promote"), [(0.11, True), (0.10, False), (0.09, False)])
def test_without_a_champion_the_candidate_must_beat_the_base_model_strictly(
    value: float, promote: bool
):
    decision = decide(scores(value), None, floor=0.10)
    assert decision.promote is promote and "0.1" in decision.reason


@pytest.mark.parametrize("value", [0.31, 0.27, 0.2])
def test_a_champion_of_other_test_rows_is_called_one(value: float):
    plain, told = (
        decide(scores(value), scores(0.27)),
        decide(scores(value), scores(0.27), own_rows=False),
    )
    assert told.promote is plain.promote
    assert told.reason == f"{plain.reason}; the champion was chosen by other test rows"


def test_a_floor_of_zero_is_a_floor():
    assert not decide(scores(0.0), None, floor=0.0).promote


def test_the_first_candidate_wins_where_there_is_no_floor():
    assert (
        decide(scores(0.0), None).reason
        == "there is no champion yet; the candidate scores 0 (-0.02..0.02, 850 rows)"
    )


@pytest.mark.parametrize("champion", [None, scores(0.1), scores(math.nan)])
def test_a_score_that_is_not_a_number_never_wins(champion: Scores | None):
    assert not decide(scores(math.nan), champion).promote
    assert not decide(scores(math.nan), champion, higher_is_better=False).promote


def test_a_champion_without_a_number_does_not_stay():
    assert decide(scores(0.01), scores(math.nan)).promote


def test_scores_on_different_test_sets_are_not_compared():
    with pytest.raises(ValueError, match="candidate on d2, champion on d1"):
        decide(scores(0.9, "d2"), scores(0.1, "d1"))
