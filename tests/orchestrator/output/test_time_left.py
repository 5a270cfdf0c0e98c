"""How much longer a sweep takes: the estimate, corrected by what is done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.run_numbers import finalist_number
from orchestrator.output.progress import ProgressDisplay, progress_of
from orchestrator.output.time_left import TimeLeft
from orchestrator.plan.timing import Phase

PHASES = (Phase(4, 0, 10, 40.0), Phase(1, 10, 30, 30.0))


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def left_of(clock: Clock, final: tuple[float, int] = (0.0, 0)) -> TimeLeft:
    return TimeLeft(PHASES, final, judging=20.0, began=90.0, clock=clock)


def test_before_anything_is_done_it_is_the_estimate() -> None:
    left = left_of(Clock())
    assert (left.seconds(), left.whole()) == (90.0, 100.0)


@pytest.mark.parametrize("slowness", [0.5, 1.0, 3.0])
def test_what_is_done_corrects_what_is_left(slowness: float) -> None:
    clock = Clock()
    left = left_of(clock)
    for step in range(11):
        for trial in range(1, 5):
            left.step(trial, step)
        clock.now += 4.0 * slowness
    clock.now = left.last
    assert left.seconds() == pytest.approx((30 + 20) * slowness, rel=0.01)
    clock.now += 7
    assert left.seconds() == pytest.approx((30 + 20) * slowness - 7, rel=0.01)


def test_the_first_steps_of_trials_that_train_together_are_one_beginning() -> None:
    clock = Clock()
    left = left_of(clock)
    for step in range(1, 4):
        for trial in range(1, 5):
            clock.now += 0.01
            left.step(trial, step)
        clock.now += 4.0 - 0.04
    assert left.correction() == pytest.approx(1.0, rel=0.02)


def test_the_start_of_finalists_is_not_taken_for_slow_training() -> None:
    clock = Clock()
    left = left_of(clock, final=(20.0, 20))
    for step in range(11):
        for trial in range(1, 5):
            left.step(trial, step)
        clock.now += 4.0
    for step in range(11, 31):
        left.step(1, step)
        clock.now += 1.5
    for trial in range(1, 5):
        left.end(trial)
    clock.now += 200
    for step in range(1, 11):
        for finalist in (1, 2):
            left.step(finalist_number(finalist, 0), step)
        clock.now += 2.0
    assert left.correction() == pytest.approx(1.0, rel=0.05)
    assert left.seconds() == pytest.approx(20.0, rel=0.1), "the judgement, once both are done"


def test_what_was_done_before_this_command_counts_as_done_and_says_nothing_of_its_speed() -> None:
    clock = Clock()
    left = left_of(clock)
    for trial in range(1, 4):
        clock.now += 1  # told again, one after the other
        left.recall(trial, 10)
    assert left.seconds() == pytest.approx(10 + 30 + 20) and left.correction() == 1
    clock.now += 20
    left.step(1, 11)
    clock.now += 30
    left.step(1, 16)
    assert left.correction() == pytest.approx(30 / (5 * 1.5)), "five steps in the time of twenty"
    left.recall(4, 10)
    assert left.correction() == pytest.approx(30 / (5 * 1.5)), "whose slot came late"
    assert left.training_left() == pytest.approx(14 * 1.5)


def test_a_report_that_the_journal_has_is_no_work_of_this_command() -> None:
    clock = Clock()
    left = left_of(clock)
    with ProgressDisplay(4, 30, "valid/loss", left) as screen:
        screen.goes_on_from(1, 8)
        screen.rung(2, 10, {"valid/loss": 1.0}, is_known=True)
        assert left.first is None and left.reached == {1: 8, 2: 10} and left.evaluated == {2: 10}
        screen.rung(1, 10, {"valid/loss": 1.0})
    assert left.first == (clock.now, 20.0)


def test_a_sweep_that_was_planned_to_take_longer_is_late_by_its_plan() -> None:
    estimate = SimpleNamespace(
        phases=PHASES, final=0.0, final_start=0.0, judging=20.0, seconds=2400.0
    )
    sweep = SimpleNamespace(minutes=15.0, metric="valid/loss")
    config = SimpleNamespace(sweep=sweep, train=SimpleNamespace(steps=30))
    final = SimpleNamespace(steps=lambda config: 0)
    plan: Any = SimpleNamespace(
        estimate=estimate, final=final, config=config, sizes="the smallest", num_trials=4
    )
    assert progress_of(plan, 0.0).minutes == 40
    estimate.seconds = 600.0
    assert progress_of(plan, 0.0).minutes == 15


def test_stopped_trials_leave_nothing_open_and_finalists_are_counted_apart() -> None:
    clock = Clock()
    left = left_of(clock, final=(60.0, 20))
    for trial in range(1, 5):
        left.step(trial, 10)
    left.step(2, 30)
    assert left.done() == pytest.approx(70)
    left.step(finalist_number(2, 0), 10)
    assert left.done() == pytest.approx(100)
    left.step(finalist_number(2, 0), 400)
    assert left.done() == pytest.approx(left.planned())


def test_what_ended_trials_would_have_trained_is_not_left() -> None:
    clock = Clock()
    left = left_of(clock)
    for trial in range(1, 5):
        left.step(trial, 5)
    assert left.training_left() == pytest.approx(20 + 30)
    for trial in (1, 2, 3):
        left.end(trial)  # by their losses, inside the rung
    assert left.training_left() == pytest.approx(5 + 30), "the last one's way to the rung and on"
    left.step(4, 20)
    assert left.training_left() == pytest.approx(15)
    left.end(4)
    assert left.training_left() == 0
    left.step(4, 20)
    assert left.training_left() == 0, "told twice"
    left.step(4, 25)
    assert left.training_left() == pytest.approx(7.5), "started again"
    left.end(4)
    assert left.seconds() >= 20, "the judgement"


def test_an_evaluation_counts_when_it_has_been() -> None:
    left = TimeLeft([Phase(2, 0, 10, 40.0, 20.0, 5)], (0.0, 0), judging=0.0, began=90.0)
    for trial in (1, 2):
        left.step(trial, 5)
    assert left.training_left() == pytest.approx(10 + 20)
    left.evaluate(1, 5)
    assert left.training_left() == pytest.approx(10 + 15)
    left.end(2)
    assert left.training_left() == pytest.approx(5 + 5)


def test_while_it_is_judged_the_pace_of_the_answers_tells_what_is_left() -> None:
    clock = Clock()
    left = left_of(clock)
    for trial in range(1, 5):
        left.step(trial, 30)
    left.judge({"base": 1.0, "trial 1": 1.0})
    assert left.seconds() == pytest.approx(20)
    clock.now += 5
    assert left.seconds() == pytest.approx(15), "the estimate, until there is a pace"
    left.answer("base", 0.5)
    assert left.seconds() == pytest.approx(15), "a quarter took 5 seconds"
    clock.now += 5
    left.answer("base", 1.0)
    left.answer("trial 1", 0.6)
    assert left.seconds() == pytest.approx(10 * 0.2 / 0.8)


def test_a_model_that_the_plan_gives_more_seconds_counts_for_more() -> None:
    clock = Clock()
    left = left_of(clock)
    left.step(1, 30)
    left.judge({"base": 3.0, "trial 1": 1.0})
    clock.now += 10
    left.answer("trial 1", 1.0)
    assert left.seconds() == pytest.approx(30), "three times as much is still to be answered"
    clock.now += 15
    left.answer("base", 0.5)
    assert left.seconds() == pytest.approx(25 * 1.5 / 2.5)


def test_the_lines_of_the_judgement_say_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ProgressDisplay(4, 30, "valid/loss", left_of(clock)) as screen:
        screen.judging({"base": 1.0, "trial 1": 1.0}, 40)
        for done in range(1, 41):
            clock.now += 1
            screen.progress("judging base", done, 40)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "judging base and trial 1 on 40 test rows"
    assert "judging base  20/40  about 1m00s left" in told
    assert len(told) == 6, "each quarter once"


def test_messages_that_overtake_one_another_take_nothing_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay(4, 30, "valid/loss", left_of(Clock())) as screen:
        screen.judging({"base": 1.0}, 40)
        for done in (10, 30, 20, 11, 40, 39):
            screen.progress("judging base", done, 40)
        told = [line.split("  ")[1] for line in capsys.readouterr().err.splitlines()[1:]]
        assert told == ["10/40", "30/40", "40/40"]
        screen.judging({"base": 1.0}, 40)
        screen.progress("judging base", 10, 40)
    assert "judging base  10/40" in capsys.readouterr().err, "judged again, from the start"


def test_the_screen_says_what_is_left_and_once_that_it_is_late(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    left = left_of(clock)
    with ProgressDisplay(4, 30, "valid/loss", left, minutes=2) as screen:
        screen.start(1, {})
        screen.step(1, 1, {"train/tokens_per_second": 5.0, "train/loss": 1.0})
        for rung in (5, 10, 20):
            clock.now += 60
            for trial in (1, 2, 3, 4):
                screen.rung(trial, rung, {"valid/loss": 1.0})
    told = capsys.readouterr().err
    assert "left" in told and told.count("slower than planned: about ") == 1
    assert "in all instead of 2 minutes" in told


def test_a_screen_without_an_estimate_says_nothing_of_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay(4, 30, "valid/loss") as screen:
        screen.rung(1, 10, {"valid/loss": 1.0})
    assert "left" not in capsys.readouterr().err


@pytest.mark.parametrize("slowness", [0.5, 1.0, 3.0])
def test_steps_before_an_evaluation_say_nothing_of_how_long_it_takes(slowness: float) -> None:
    """Half of the first stretch is an evaluation at its end, a third of the second are two."""
    clock = Clock()
    phases = (Phase(4, 0, 10, 40.0, 20.0, 10), Phase(1, 10, 30, 30.0, 10.0, 10))
    left = TimeLeft(phases, (0.0, 0), judging=20.0, began=90.0, clock=clock)
    for step in range(11):
        for trial in range(1, 5):
            left.step(trial, step)
        clock.now += 2.0 * slowness
    clock.now = left.last
    assert left.seconds() == pytest.approx((20 + 30 + 20) * slowness, rel=0.01)
    clock.now += 20.0 * slowness
    for trial in range(1, 5):
        left.evaluate(trial, 10)
    assert left.done() == pytest.approx(40)
    assert left.seconds() == pytest.approx((30 + 20) * slowness, rel=0.01)
    clock.now += 15.0 * slowness
    left.evaluate(1, 20)
    assert left.done() == pytest.approx(55)
    assert left.seconds() == pytest.approx((15 + 20) * slowness, rel=0.01)
    left.evaluate(1, 30)
    assert left.done() == pytest.approx(left.planned())


def test_a_trial_that_goes_on_as_a_finalist_is_no_slow_training_and_does_its_steps() -> None:
    """Its start takes longer than all training, and is not expected once more."""
    clock = Clock()
    phases = (Phase(2, 0, 5, 1.0), Phase(1, 5, 20, 1.5))
    left = TimeLeft(phases, (10.0, 15), 12.0, began=90.0, clock=clock, final_start=8.0)
    assert left.seconds() == pytest.approx(2.5 + 10 + 12)
    for trial in (1, 2):
        left.start(trial)
    clock.now += 20
    for step in range(1, 21):
        clock.now += 0.1
        left.step(1, step)
        if step <= 5:
            left.step(2, step)
        if step == 5:
            left.evaluate(2, 5)
            left.end(2)
    left.end(1)
    assert left.seconds() == pytest.approx(10 + 12)
    left.start(2)
    left.recall(2, 5)
    clock.now += 5
    assert left.seconds() == pytest.approx(3 + 2 + 12), "the start is nearer to its end"
    clock.now += 20
    assert left.seconds() == pytest.approx(2 + 12), "what is to come is not shorter for it"
    for step in range(6, 11):
        left.step(2, step)
    assert left.correction() == 1 and left.final_left() == pytest.approx(2 * 10 / 15)
    assert left.training_left() == pytest.approx(2 * 10 / 15), "and none of the search"
    for step in range(11, 21):
        clock.now += 0.1
        left.step(2, step)
    assert left.training_left() == 0 and left.seconds() == pytest.approx(12)


def test_a_start_after_a_pause_is_not_taken_for_slow_training() -> None:
    clock = Clock()
    left = left_of(clock)
    for step in range(1, 11):
        for trial in range(1, 5):
            left.step(trial, step)
        clock.now += 4.0
    for trial in range(1, 5):
        left.evaluate(trial, 10)
    left.start(1)
    clock.now += 100
    for step in range(11, 21):
        left.step(1, step)
        clock.now += 1.5
    clock.now = left.last
    assert left.correction() == pytest.approx(1.0, rel=0.1)
    assert left.seconds() == pytest.approx(15 + 20, rel=0.1)


def test_starts_of_trials_one_after_another_are_expected_of_those_to_come() -> None:
    clock = Clock()
    left = left_of(clock)
    for trial in (1, 2):
        left.start(trial)
        clock.now += 29
        for step in range(1, 11):
            clock.now += 1.0
            left.step(trial, step)
        left.evaluate(trial, 10)
        left.end(trial)
    assert left.correction() == pytest.approx(1.0, rel=0.1)
    assert left.seconds() == pytest.approx(20 + 30 + 20 + 2 * 30, rel=0.02), "two are to start"


def test_what_starts_beside_training_leaves_the_time_of_it_counted() -> None:
    clock = Clock()
    left = left_of(clock)
    left.step(1, 1)
    for step in range(2, 11):
        clock.now += 3.0
        left.step(1, step)
    left.start(2)
    clock.now += 3.0
    left.step(2, 1)
    assert left.correction() == pytest.approx(3.0, rel=0.1), "a step of 1 second took 3"
