"""Models that are judged by two processes at once have the scores that they have one after another,
and are judged so only where that is worth it and memory is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.evaluation import held_out_judge
from orchestrator.project import ROOT
from tests.conftest import environment

AT_ONCE = (
    "import sys; from orchestrator.evaluation import held_out_judge as judge; "
    "judge.WORTH_SECONDS = 0; from orchestrator.cli import main; sys.exit(main(sys.argv[1:]))"
)


def judge_of(runs_here: bool) -> Any:
    judge = held_out_judge.HeldOutJudge.__new__(held_out_judge.HeldOutJudge)
    judge.config = SimpleNamespace(runs_here=runs_here)  # type: ignore[assignment]
    return judge


@pytest.mark.parametrize(
    ("seconds", "runs_here", "available", "expected"),
    [
        (600, True, 64, 15),
        (600, True, 9, 2),
        (600, True, 1, 1),
        (600, True, 0, 1),
        (600, False, 64, 1),
        (30, True, 64, 1),
    ],
)
def test_processes_that_judge_at_once_follow_from_work_and_memory(
    base: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    runs_here: bool,
    available: float,
    expected: int,
) -> None:
    monkeypatch.setattr(held_out_judge, "available_bytes", lambda: int(available * 10**9))
    assert judge_of(runs_here).processes(base, seconds) == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_give_the_scores_of_one(cache: Path, toy: Path, tmp_path: Path) -> None:
    told = []
    for name, start in (("one", ["-m", "orchestrator"]), ("two", ["-c", AT_ONCE])):
        settings = ["model=tiny", "data=files", f"data.folder={toy}", "train.max_length=128"]
        settings += ["train.steps=10", "output=json", f"storage={tmp_path / name}"]
        done = subprocess.run(
            [sys.executable, *start, *settings],
            capture_output=True,
            text=True,
            env=environment(cache),
            cwd=ROOT,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.strip().splitlines()[-1])
        scores = [result["best"], result["base"], result["baselines"]["base_with_examples"]]
        told.append([one["metrics"]["test/exact_match"] for one in scores])
        told[-1].append(round(result["best"]["metrics"]["test/loss"], 4))
    assert told[0] == told[1]
