"""job=synthesize ends at its budget, in order, and a larger one goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_server import ChatTeacher, rewritten, teaching
from tests.support.synthesis import from_server, home_like, read_rows, synthesize

PRICED = ("synthesis.teacher.price.input=3", "synthesis.teacher.requests=1")
"""Requests of 0.0003 each, one after the other."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_like(tmp_path_factory.mktemp("data") / "home")


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_money_ends_the_rows_and_a_larger_limit_pays_the_rest(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rows"
    with teaching() as teacher:
        settings = [*from_server(teacher.url, "synthesis.rows=20"), *PRICED]
        assert synthesize(folder, data, *settings, "budget.money=0.0029") == 0
        told = capsys.readouterr().out
        assert len(teacher.bodies) == 10 and len(read_rows(folder / "train.jsonl")) == 10
        ended = "budget.money=0.0029 is spent; budget.money=0.006 would likely pay them all"
        assert manifest(folder)["ended"] == ended and ended in told
        assert synthesize(folder, data, *settings, "budget.money=0.0029") == 0
        assert len(teacher.bodies) == 10, "the same limit shows the result again"
        assert synthesize(folder, data, *settings, "budget.money=1") == 0
        assert len(teacher.bodies) == 20 and len(read_rows(folder / "train.jsonl")) == 20
    assert manifest(folder)["ended"] is None


def test_minutes_end_the_rows_though_a_server_is_silent(data: Path, tmp_path: Path) -> None:
    def silent(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        if number > 3:
            time.sleep(15)
        return rewritten(teacher, body, number)

    with teaching(silent) as teacher:
        settings = [*from_server(teacher.url, "synthesis.rows=20"), *PRICED]
        began = time.monotonic()
        assert synthesize(tmp_path / "rows", data, *settings, "budget.minutes=0.05") == 0
        assert time.monotonic() - began < 12
    assert manifest(tmp_path / "rows")["rows"] == 3
    assert manifest(tmp_path / "rows")["ended"].startswith("budget.minutes=0.05 is spent; ")


def test_a_budget_that_makes_no_row_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        settings = [*from_server(teacher.url, "synthesis.rows=20"), *PRICED]
        assert synthesize(tmp_path / "rows", data, *settings, "budget.minutes=1e-9") == 1
    assert "budget.minutes=1e-09 is spent, and no row is made; raise it" in capsys.readouterr().err
