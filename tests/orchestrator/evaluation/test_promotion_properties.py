"""What holds for any scores: the rule is monotone, contradicts itself nowhere, and a tie changes
nothing.
"""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluation.metrics import interval
from orchestrator.config.settings import Registry
from orchestrator.evaluation.promotion import (
    Candidate,
    Rival,
    Scores,
    chance,
    decide,
    select,
)
from tests.support.properties import drawn

ROWS = 40
HITS = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)


def scores(hits: list[bool]) -> Scores:
    low, high = interval(hits, 0.95)
    return Scores(sum(hits) / ROWS, low, high, ROWS, "same rows", tuple(map(float, hits)))


def champion(hits: list[bool]) -> Rival:
    return Rival("champion", "the champion", scores(hits))


@drawn
@given(HITS, HITS)
def test_of_two_models_at_most_one_beats_the_other(one: list[bool], other: list[bool]) -> None:
    rule = Registry(beat=["champion"])
    first = decide(Candidate("one", scores(one)), [champion(other)], rule)
    second = decide(Candidate("other", scores(other)), [champion(one)], rule)
    assert not (first.promote and second.promote)
    assert first.promote is False or sum(one) > sum(other)


@drawn
@given(HITS, HITS, st.integers(0, ROWS - 1))
def test_a_row_more_never_costs_the_alias(hits: list[bool], other: list[bool], row: int) -> None:
    rule = Registry(beat=["champion"])
    before = decide(Candidate("one", scores(hits)), [champion(other)], rule)
    better = [*hits[:row], True, *hits[row + 1 :]]
    after = decide(Candidate("one", scores(better)), [champion(other)], rule)
    assert after.promote or not before.promote


@drawn
@given(HITS, st.floats(0, 0.5), st.floats(0.001, 0.5))
def test_a_model_never_replaces_one_of_the_same_answers(
    hits: list[bool], margin: float, rate: float
) -> None:
    rule = Registry(beat=["champion"], margin=margin, error_rate=rate)
    decision = decide(Candidate("again", scores(hits)), [champion(hits)], rule)
    assert not decision.promote
    assert "a tie keeps the champion" in decision.reason


@drawn
@given(st.lists(HITS, min_size=1, max_size=4), st.lists(HITS, min_size=1, max_size=3))
def test_no_comparison_that_holds_for_each_of_several_candidates_is_told_as_lost(
    models: list[list[bool]], others: list[list[bool]]
) -> None:
    candidates = [Candidate(str(number), scores(hits)) for number, hits in enumerate(models)]
    rivals = [
        Rival("baselines", f"baseline {number}", scores(hits)) for number, hits in enumerate(others)
    ]
    rule = Registry(beat=["baselines"])
    for one in candidates:
        decision = decide(one, rivals, rule, True, candidates)
        lost = [text for text in decision.reasons if "by more than chance" in text]
        chances = [float(re.findall(r"p=([0-9.e-]+)", text)[0]) for text in lost]
        assert all(p > 0.98 * rule.error_rate / len(candidates) for p in chances), decision.reasons
        beaten = all(
            chance(one.scores, rival.scores, True) <= rule.error_rate / len(candidates)
            and one.scores.value > rival.scores.value
            for rival in rivals
        )
        assert decision.promote or not beaten


@drawn
@given(st.lists(st.tuples(HITS, st.floats(1, 1000)), min_size=1, max_size=4), HITS)
def test_the_chosen_one_is_the_smallest_that_cannot_be_told_from_the_best(
    models: list[tuple[list[bool], float]], other: list[bool]
) -> None:
    candidates = [
        Candidate(str(number), scores(hits), megabytes)
        for number, (hits, megabytes) in enumerate(models)
    ]
    made = select(candidates, [champion(other)], Registry(beat=["champion"]))
    tied = [one for one in candidates if one.name in made.tied]
    assert made.chosen in tied
    assert made.chosen.megabytes == min(one.megabytes for one in tied)
    assert any(one.scores.value == max(c.scores.value for c in candidates) for one in tied)
    alone = decide(made.chosen, [champion(other)], Registry(beat=["champion"]))
    assert alone.promote or not made.decision.promote, "more candidates ask for more evidence"
