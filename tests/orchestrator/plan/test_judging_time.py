"""The time of the judgement follows from the tokens that each judged model makes."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.plan import machine
from orchestrator.plan.model_shape import Shape
from orchestrator.plan.resources import Node, Resources
from orchestrator.plan.row_counts import RowCounts
from orchestrator.plan.timing import (
    HARDLY_TRAINED,
    JUDGING_EFFICIENCY,
    WITH_EXAMPLES,
    Speed,
    Timing,
)
from tests.support.settings import build

SMOLLM2 = Shape(layers=30, layer_weights=106e6, head_weights=28e6)
HOME: dict[str, Any] = {
    "tokens": 36,
    "answer": 21,
    "valid": 300,
    "scored": 300,
    "test": 600,
    "reply": 21,
    "limit": 42,
}


def timing(*settings: str, **counts: Any) -> Timing:
    """The default sweep on two cores, on the smart home's rows but for what is named."""
    config = build(
        compose(["model=tiny", "+sweep=lora", "sweep.metric=valid/chrf", *settings], None)
    )
    merged: dict[str, Any] = {**HOME, **counts}
    rows = RowCounts(**merged)
    resources = Resources(6, 1, 2, 0, (Node(2),), 1)
    return Timing(config, SMOLLM2, rows, resources, Speed(329e9, 329e9, 1.0, ""), 0.2)


def test_a_base_that_rambles_pays_for_a_longer_limit_and_nobody_else() -> None:
    usual, longer = timing(), timing(limit=84)
    more = 2 * 600 * 42 * (106e6 + 28e6) / 329e9
    added = longer.judging_seconds() - usual.judging_seconds()
    assert more < added < 4 * more


def test_only_the_products_of_answers_are_quicker_in_a_quicker_format() -> None:
    def rung(flops: float, plain: float) -> float:
        found = timing()
        found.speed = Speed(flops, plain, 1.0, "")
        return found.answering_seconds(100, 50, found.answering_flops)

    slow, quick = rung(207e9, 207e9), rung(404e9, 207e9)
    assert 0.5 * slow < rung(404e9, 404e9) < 0.6 * slow < quick < 0.75 * slow
    assert rung(207e9, 404e9) == slow, "nor is anything quicker than the format it is made in"


def test_each_judged_model_is_counted() -> None:
    alone = timing("job.examples=0").judging_seconds()
    shown = timing().judging_seconds()
    two = timing("final.count=2", "final.judged=2").judging_seconds()
    answers = timing().answering_seconds(600, 21, 329e9)
    assert shown - alone == pytest.approx(WITH_EXAMPLES * answers)
    assert two - shown > answers, "a second finalist answers and is scored"


def test_answers_at_a_rung_are_those_of_each_trial() -> None:
    few, many = timing(scored=100), timing(scored=300)
    added = many.evaluation_seconds(6, False) - few.evaluation_seconds(6, False)
    tokens = 21 + HARDLY_TRAINED * (42 - 21)
    each = many.answering_seconds(300, tokens, 329e9) - many.answering_seconds(100, tokens, 329e9)
    assert added == pytest.approx(6 * each), "who is hardly trained rambles"
    at_end = many.evaluation_seconds(6, True) - many.evaluation_seconds(6, False)
    assert at_end == pytest.approx(-6 * (each_of(many, tokens) - each_of(many, 21)))


PLAIN = Resources(4, 1, 1, 0, (Node(4),), 0)
TWO_GPUS = Resources(8, 1, 8, 1.0, (Node(16, 2),), 2)
ONE_GPU = Resources(8, 1, 8, 1.0, (Node(16, 1),), 1)


def test_a_trial_that_trains_by_itself_keeps_its_cores_when_others_have_ended() -> None:
    found = timing().with_resources(PLAIN)
    assert found.step_seconds(1) == pytest.approx(found.step_seconds(4))
    assert found.evaluation_seconds(1, True) == pytest.approx(found.evaluation_seconds(4, True))


def on_gpus(resources: Resources, flops: float) -> Timing:
    found = timing().with_resources(resources)
    return Timing(found.config, SMOLLM2, found.rows, resources, Speed(flops, 5e12, 1.0, ""), 0.2)


@pytest.mark.parametrize(("trials", "of_one"), [(1, 1), (2, 1), (8, 4)])
def test_each_of_several_packs_evaluates_its_own_trials_at_its_own_rate(
    trials: int, of_one: int
) -> None:
    two, one = on_gpus(TWO_GPUS, 2e13), on_gpus(ONE_GPU, 1e13)
    assert two.evaluation_seconds(trials, True) == pytest.approx(
        one.evaluation_seconds(of_one, True)
    )
    assert two.step_seconds(trials) == pytest.approx(one.step_seconds(of_one))


@pytest.mark.parametrize("resources", [TWO_GPUS, Resources(6, 1, 2, 0, (Node(2), Node(2)), 2)])
def test_several_places_judge_at_once_and_the_longest_decides(resources: Resources) -> None:
    several = on_gpus(resources, 2e13)
    one = ONE_GPU if resources.num_gpus else Resources(6, 1, 2, 0, (Node(2),), 1)
    single = on_gpus(one, 1e13)
    answers = single.test_answers()
    assert several.test_answers() == answers
    saved = single.judging_seconds() - several.judging_seconds()
    assert saved == pytest.approx(answers.base, rel=0.5)
    assert several.judging_seconds() > answers.base


@pytest.mark.parametrize(
    ("resources", "flops"),
    [
        (Resources(8, 1, 8, 1.0, (Node(16, 4),), 4), machine.ASSUMED_FLOPS_PER_GPU),
        (Resources(6, 1, 2, 0, (Node(2), Node(8)), 2), 8 * machine.ASSUMED_FLOPS_PER_CORE),
    ],
)
def test_one_machine_or_gpu_judges_a_model(resources: Resources, flops: float) -> None:
    unknown = machine.ThisMachine(None)
    assert machine.speed_of(timing().config, resources, unknown).judging_flops == flops


def each_of(found: Timing, tokens: float) -> float:
    return found.answering_seconds(300, tokens, 329e9)


def test_reference_answers_are_scored_in_the_pass_that_reads_the_prompts() -> None:
    short, long = timing(tokens=36), timing(tokens=136)
    read = 2 * 600 * 100 * 106e6 / (329e9 * JUDGING_EFFICIENCY)
    more = long.judging_seconds() - short.judging_seconds()
    assert more == pytest.approx((1 + 1 + WITH_EXAMPLES) * read, rel=0.1), "once for each model"


def test_examples_stand_in_the_place_of_neighbours() -> None:
    bare, shown = timing(tokens=36), timing(tokens=136, shown=100)
    assert shown.test_answers().with_examples == pytest.approx(bare.test_answers().with_examples)
    assert shown.test_answers().trained > 2 * bare.test_answers().trained


def test_answers_of_four_tokens_take_a_fraction_of_those_of_forty() -> None:
    short = timing(reply=4, limit=4, tokens=19).answering_seconds(600, 4, 329e9)
    long = timing(reply=40, limit=40, tokens=55).answering_seconds(600, 40, 329e9)
    assert 2 < long / short < 10
