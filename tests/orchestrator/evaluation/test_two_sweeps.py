"""From a clean store: a first sweep's winner becomes champion, a second sweep that is no better
leaves it, and says why on its last screen, in its report and with the version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.finished_sweeps import champion, decided, registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SWEEP = (
    "+sweep=lora",
    "sweep.num_trials=2",
    "train.steps=20",
    "train.eval_every=10",
    "registry.beat=[champion]",
)
LEARNS = ("sweep.space.lr.low=0.005", "sweep.space.lr.high=0.02")
STAYS = ("sweep.space.lr.low=1e-9", "sweep.space.lr.high=2e-9")
"""Rates at which a trial stays what the base is."""


def test_a_second_sweep_that_is_no_better_leaves_the_champion_and_says_why(
    command: Any, tmp_path: Path
) -> None:
    storage = tmp_path / "clean"
    first = command(*SWEEP, *LEARNS, f"storage={storage}", timeout=400)
    assert first.code == 0, first.err
    name, version = first.result["model"]["name"], first.result["model"]["version"]
    assert first.result["model"]["alias"] == "champion" and version == 1
    second = command(*SWEEP, *STAYS, f"storage={storage}", "output=text", timeout=400)
    assert second.code == 0, second.err
    assert champion(storage, name) == version
    lines = second.out.splitlines()
    at = lines.index(f"model   {name} v2 is registered, without the alias champion")
    assert lines[at + 1].startswith("why     it ") and "the champion" in lines[at + 1]
    assert any(words in lines[at + 1] for words in ("does not beat", "only equals")), lines[at + 1]
    assert any(line.startswith("help    ") for line in lines[at + 2 :])
    (folder,) = [
        file.parent
        for file in storage.glob("sweeps/*/result.json")
        if json.loads(file.read_text())["model"]["version"] == 2
    ]
    why = lines[at + 1].removeprefix("why     ")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "without an alias" in page and why.partition(":")[0] in page
    assert any("the champion's" in reason for reason in decided(storage))
    told = registry(storage).get_model_version(name, "2")
    assert "the champion" in told.tags["decision"] and "## Decision" in told.description
