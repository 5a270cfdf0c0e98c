"""The command line in the process of the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.runs import cli as runs


def run(cache: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """One command with a cache of its own."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return main(list(arguments))


Tool = Callable[..., tuple[int, str, str]]


def runs_tool(capsys: pytest.CaptureFixture[str], *where: str) -> Tool:
    """`python -m orchestrator.runs` on one place: exit code, output and what was said."""

    def run_there(*words: str) -> tuple[int, str, str]:
        try:
            code = runs.main([*words, *where])
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return run_there
