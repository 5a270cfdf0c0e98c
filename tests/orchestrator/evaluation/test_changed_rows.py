"""Rows that change while a sweep runs: nothing is judged or registered under another's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.final_evaluation import check_rows
from orchestrator.plan import planner
from tests.support.settings import build

ROW = '{"prompt": "one more", "completion": "row"}\n'


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_that_changed_after_the_plan_are_noticed_and_put_back_they_do(
    base: BaseModel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    for name, count in (("train", 40), ("valid", 10), ("test", 10)):
        rows = [f'{{"prompt": "{name} {n}", "completion": "a {n % 3}"}}\n' for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    config = build(compose(["model=tiny", "data=files", f"data.folder={tmp_path}"], None))
    plan = planner.make(config)
    check_rows(plan)
    file = tmp_path / f"{split}.jsonl"
    before = file.read_text()
    file.write_text(before + ROW)
    with pytest.raises(OrchestratorError, match=f"{split} has changed since the sweep was planned"):
        check_rows(plan)
    file.write_text("{")
    with pytest.raises(OrchestratorError, match="cannot be read again"):
        check_rows(plan)
    file.write_text(before)
    check_rows(plan)
