"""How many tokens an answer may have, and what is said where that cuts right answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.config.compose import compose
from orchestrator.output.plan_text import plan_text
from orchestrator.plan.answer_limit import answer_limit
from orchestrator.plan.planner import Plan, make
from orchestrator.plan.token_counts import Count
from tests.support.settings import build


def counted(*lengths: tuple[int, int]) -> Count:
    """The count of a split with so many tokens in so many answers."""
    rows = sum(times for _, times in lengths)
    return Count(rows, answers=[list(pair) for pair in lengths])


def limit_of(train: Count, test: Count, setting: int | None = None) -> Any:
    return answer_limit(setting, {"train": train, "valid": counted((3, 10)), "test": test})


def test_the_longest_answer_in_any_split_has_room() -> None:
    told = limit_of(counted((20, 900), (42, 100)), counted((20, 500), (37, 100)))
    assert (told.tokens, told.longer, told.notes) == (42, 0, [])
    assert told.mean == pytest.approx((20 * 500 + 37 * 100) / 600)
    assert limit_of(counted((4, 900)), counted((4, 500), (6, 1))).tokens == 6


def test_a_few_answers_that_are_far_longer_do_not_set_it_and_are_told() -> None:
    told = limit_of(counted((20, 9990), (900, 10)), counted((20, 597), (400, 3)))
    assert (told.tokens, told.longest, told.longer) == (40, 900, 3)
    (note,) = told.notes
    assert "end after 40 tokens (job.max_new_tokens): 3 of 600 right answers" in note
    assert "job.max_new_tokens=900 gives them room" in note


def test_long_answers_that_are_usual_in_one_split_have_room() -> None:
    told = limit_of(counted((20, 9990)), counted((20, 590), (400, 10)))
    assert (told.tokens, told.longer) == (400, 0)


def test_short_answers_all_have_room_whatever_the_others() -> None:
    assert limit_of(counted((2, 9990), (32, 1)), counted((2, 600))).tokens == 32


def test_what_was_set_holds_and_what_it_cuts_is_told() -> None:
    told = limit_of(counted((20, 900)), counted((20, 500), (37, 100)), 25)
    assert (told.tokens, told.longer) == (25, 100)
    assert "job.max_new_tokens=37 gives them room" in told.notes[0]


def plan(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Plan:
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    line = ["model=tiny", "data=files", f"data.folder={folder}", f"storage={folder}/out", *more]
    return make(build(compose(line, None)))


def write(folder: Path, name: str, answers: list[str]) -> None:
    lines = [{"prompt": f"{name} {n}", "completion": text} for n, text in enumerate(answers)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def test_the_plan_names_the_limit_of_a_folders_rows(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "train", ["abc"] * 300 + ["x" * 30])
    write(tmp_path, "valid", ["abc"] * 30)
    write(tmp_path, "test", ["abc"] * 249 + ["y" * 200])
    made = plan(tmp_path, cache, monkeypatch)
    assert made.limit is not None and made.limit.tokens == made.max_new_tokens == 32
    text = plan_text(made)
    assert "test rows, in answers of at most 32 tokens; registered as" in text
    assert "1 of 250 right answers to test rows are longer and cannot be given" in text
    roomy = plan(tmp_path, cache, monkeypatch, "job.max_new_tokens=300")
    assert roomy.max_new_tokens == 300 and roomy.name == made.name
