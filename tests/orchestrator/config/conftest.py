"""The command line with bad input, for the tests of what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main


@pytest.fixture
def refuse(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refuse(*arguments)` runs the command line, expects exit code 2 and gives the message."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))

    def run(*arguments: str) -> str:
        storage = tmp_path / "outputs"
        given = [] if any(a.startswith("storage=") for a in arguments) else [f"storage={storage}"]
        code = main(["model=tiny", *given, *arguments])
        printed = capsys.readouterr()
        assert code == 2, printed
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert not list(storage.rglob("journal.jsonl"))
        return printed.err

    return run
