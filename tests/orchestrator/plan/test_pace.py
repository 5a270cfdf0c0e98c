"""The rate that a sweep leaves for the next plan: over the time in which it trained, whatever lay
between.
"""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.plan.pace import training_rate

SIZE = 16


def event(kind: str, second: float, **fields: Any) -> dict[str, Any]:
    return {"t": round(second * 1000), "kind": kind, **fields}


def trained(
    begin: float, steps: int, slots: int = 1, seconds: float = 1.0, size: int = SIZE
) -> list[dict[str, Any]]:
    """`steps` steps of a pack of `slots` slots, each of `seconds`, one after the other."""
    measured = {"train/examples_per_second": size / seconds}
    ends = [begin + seconds * (number + 1) for number in range(steps)]
    told = [(end, round(end), slot) for end in ends for slot in range(slots)]
    return [
        event("metrics", end + 0.002 * slot, trial=slot + 1, step=step, metrics=measured)
        for end, step, slot in told
    ]


def rate(*parts: Any, packed: bool = True) -> float:
    events = [found for part in parts for found in ([part] if isinstance(part, dict) else part)]
    found = training_rate(events, SIZE, packed)
    assert found is not None
    return found


@pytest.mark.parametrize("slots", [1, 6])
def test_a_sweep_that_was_interrupted_for_a_day_has_the_rate_at_which_it_trained(
    slots: int,
) -> None:
    start = event("sweep", 0)
    assert rate(start, trained(20, 10, slots)) == pytest.approx(SIZE * slots, rel=0.01)
    again = event("sweep", 86_400)
    assert rate(start, trained(20, 10, slots), again, trained(86_420, 10, slots)) == pytest.approx(
        SIZE * slots, rel=0.01
    )


def test_a_machine_that_slept_between_two_steps_or_within_one_costs_no_rate() -> None:
    assert rate(trained(0, 10), trained(50_000, 10)) == pytest.approx(SIZE)
    asleep = trained(10, 1, seconds=7200)
    assert rate(trained(0, 10), asleep, trained(7210, 100)) == pytest.approx(SIZE, rel=0.1)


def test_evaluations_count_for_they_come_again_and_one_that_was_interrupted_counts_as_the_others() -> (
    None
):
    scored = {"valid/loss": 1.0}
    parts: list[Any] = []
    for number in range(3):
        parts += [
            trained(20 * number, 10),
            event("report", 20 * number + 21, trial=1, step=20 * number + 10, metrics=scored),
        ]
    usual = rate(*parts, trained(60, 10))
    assert usual == pytest.approx(40 * SIZE / (40 + 30), rel=0.01), (
        "ten steps of a second, then ten seconds of evaluation"
    )
    slept = rate(
        *parts,
        trained(60, 10),
        event("report", 9000, trial=1, step=70, metrics=scored),
        trained(90_000, 10),
    )
    assert slept == pytest.approx(50 * SIZE / (50 + 30 + 30), rel=0.01)
    judged = event("report", 5000, trial=1, step=10, metrics={"test/exact_match": 0.5})
    assert rate(trained(0, 10), judged, event("sweep", 6000), trained(6010, 10)) == pytest.approx(
        SIZE
    )


def test_packs_that_train_at_once_are_counted_together() -> None:
    other = [found | {"t": found["t"] + 300, "trial": 9} for found in trained(0, 20)]
    assert rate(trained(0, 20), other) == pytest.approx(2 * SIZE, rel=0.05)


def test_a_trial_of_another_batch_size_counts_its_own_examples() -> None:
    told = event("trial", 0, trial=1, point={}, params={"train.batch_size": 64})
    assert rate(told, trained(0, 10, size=64)) == pytest.approx(64)


def test_trials_that_train_by_themselves_have_their_median() -> None:
    assert rate(trained(0, 10), trained(0, 3, seconds=5000), packed=False) == SIZE


def test_less_than_two_steps_are_no_measurement() -> None:
    assert training_rate(trained(0, 1), SIZE, True) is None
    assert (
        training_rate(
            [event("metrics", 1, trial=1, step=1, metrics={"train/loss": 1.0})] * 5, SIZE, True
        )
        is None
    )
