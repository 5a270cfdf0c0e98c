"""The benchmark of load, with little of it: what it counts and what it finds wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import load


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["load", *arguments])
    return load.main()


@pytest.mark.slow
@pytest.mark.usefixtures("base")
def test_a_little_load_loses_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    file = tmp_path / "load.json"
    little = ("--trials", "8", "--sweeps", "2", "--clients", "4", "--minutes", "0.1")
    assert run(monkeypatch, *little, "--json", str(file)) == 0, capsys.readouterr()
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["trials"]["trials"] == 8
    assert len(figures["sweeps"]["seconds"]) == 2
    assert list(figures["endpoint"]["answers"]) == ["answered"]


def test_a_part_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--parts", "sweeps,more")
    assert caught.value.code == 2
    assert "--parts: more is none of trials, sweeps, endpoint" in capsys.readouterr().err
