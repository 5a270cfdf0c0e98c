"""What needs no training stays a rival of files that were scored on a part of the test rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.settings import Registry
from orchestrator.evaluation.pareto_result import rivals_of, rows_of
from orchestrator.evaluation.promotion import Candidate, Scores, decide
from orchestrator.evaluation.shipped_files import some_rows

KEY = "test/exact_match"
PLAN: Any = SimpleNamespace(digests={"test": "abc"}, num_test=600)


def told(value: float) -> Any:
    metrics = {KEY: value, f"{KEY}_low": value - 0.03, f"{KEY}_high": value + 0.03}
    return SimpleNamespace(metrics=metrics)


def file(value: float, rows: int) -> Any:
    digest = "abc" if rows == 600 else some_rows("abc", rows)
    scores = Scores(value, value - 0.08, value + 0.08, rows, digest)
    return SimpleNamespace(file=SimpleNamespace(scores=scores))


@pytest.mark.parametrize("rows", [600, 100])
@pytest.mark.parametrize(("value", "promoted"), [(0.5, False), (0.9, True)])
def test_a_file_meets_base_and_baselines_whatever_rows_it_was_scored_on(
    rows: int, value: float, promoted: bool
) -> None:
    result: Any = SimpleNamespace(
        metric=KEY, base=told(0.1), baselines={"nearest_prompt": told(0.63)}
    )
    files = [SimpleNamespace(file=SimpleNamespace(scores=None)), file(value, rows)]
    rivals = rivals_of([result], PLAN, rows_of(files, PLAN))
    assert [rival.kind for rival in rivals] == ["base", "baselines"]
    candidate = Candidate("a file", files[1].file.scores)
    decision = decide(candidate, rivals, Registry(beat=["base", "baselines"]))
    assert decision.promote is promoted, decision.reason


def test_without_scores_the_rows_are_those_of_the_plan() -> None:
    assert rows_of([], PLAN) == "abc"
    assert rows_of([file(0.5, 600)], PLAN) == "abc"
