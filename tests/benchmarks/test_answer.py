"""What a benchmark's command answers when it cannot do what it is asked."""

from __future__ import annotations

import pytest

from benchmarks import answer
from orchestrator.errors import InputError


def test_a_mistake_is_one_message_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken() -> int:
        raise InputError("--slots 0: at least 1")

    assert answer(mistaken) == 2
    assert capsys.readouterr().err == "error: --slots 0: at least 1\n"


def test_ctrl_c_is_one_message_and_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert answer(stopped) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_what_went_well_has_its_own_code() -> None:
    assert answer(lambda: None) == 0
    assert answer(lambda: 1) == 1
