"""A line whenever a command has been silent for some seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from orchestrator.output.heartbeat import SILENCE, Heartbeat, print_line, waiting
from orchestrator.output.progress import ProgressDisplay
from orchestrator.output.time_left import TimeLeft
from orchestrator.plan.timing import Phase

SHORT = 0.05


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for it, at most half a minute."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.01)


def test_silence_is_broken_again_and_again() -> None:
    lines: list[str] = []
    with Heartbeat(lambda: "works", SHORT, lines.append):
        until(lambda: len(lines) >= 3, "three lines")
    after = len(lines)
    time.sleep(3 * SHORT)
    assert len(lines) == after and set(lines) == {"works"}, "nothing is said after the end"


def test_where_others_speak_it_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with Heartbeat(lambda: "works", 10.0, lines.append):
        print_line("step 1")
        assert SILENCE.seconds() < 5
    assert lines == []
    assert capsys.readouterr().err == "step 1\n"


def test_a_command_ends_at_once_while_it_waits() -> None:
    began = time.monotonic()
    with Heartbeat(lambda: "works", 60.0):
        pass
    assert time.monotonic() - began < 10
    assert not [each for each in threading.enumerate() if each.name == "heartbeat"]


def test_it_says_for_how_long() -> None:
    assert waiting("ray     starting")() == "ray     starting, 0 s"


def test_the_status_of_a_sweep() -> None:
    left = TimeLeft((Phase(2, 0, 10, 40.0),), (0.0, 0), judging=20.0, began=0.0, clock=lambda: 0.0)
    screen = ProgressDisplay(2, 10, "valid/loss", left)
    assert screen.status() is None, "nothing has begun"
    screen.start(1, {"optim.lr": 0.1})
    screen.start(2, {"optim.lr": 0.2})
    assert screen.status() == "2 trials starting  about 1m00s left"
    screen.step(1, 4, {"train/loss": 1.0})
    assert screen.status() == "1 trial at step 4 of 10  about 52s left"
    screen.step(2, 5, {"train/loss": 1.0})
    assert screen.status() == "2 trials at step 4 to 5 of 10  about 42s left"
    screen.end(1, "stopped", None)
    assert screen.status() == "1 trial at step 5 of 10  about 30s left", "the other trains no more"
    screen.judging({"base": 1.0}, 20)
    screen.progress("judging base", 5, 20)
    assert str(screen.status()).startswith("judging base  5/20  about ")
    screen.__exit__()
    assert screen.status() == "ray     ending"
