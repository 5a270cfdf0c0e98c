"""What is told of a trial's reports, by who has computed them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.output.progress import ProgressDisplay
from orchestrator.output.time_left import TimeLeft
from orchestrator.plan.timing import Phase
from orchestrator.sweep.callback import SweepCallback
from orchestrator.sweep.state import SweepState
from tests.support.trained_sweeps import TrainedSweep


def test_reports_of_an_earlier_command_say_nothing_of_this_ones_speed(
    base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    sweep = TrainedSweep("pack", toy, tmp_path, base, "sweep.metric=valid/loss")
    sweep.train(1, 25)
    left = TimeLeft([Phase(4, 0, 60, 240.0)], (0.0, 0), 10.0, 0.0, lambda: 5.0)
    screen = ProgressDisplay(4, 60, "valid/loss", left)
    recorder = SweepCallback(SweepState(sweep.plan, base, sweep.journal, screen, {}))
    recorder.drain = lambda: None
    trial: Any = SimpleNamespace(
        config={"index": 1, "step": 25, "assignment": SimpleNamespace(trial=sweep.plan.trials[0])}
    )
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, {"step": 20, "valid/loss": 0.05})
    assert left.first is None and (left.reached, left.evaluated) == ({1: 25}, {1: 20})
    recorder.on_trial_result(0, [], trial, {"step": 40, "valid/loss": 0.02})
    assert left.first is not None and left.reached == {1: 40}
    told = [event["step"] for event in sweep.journal.events() if event["kind"] == "report"]
    assert told == [20, 40]
