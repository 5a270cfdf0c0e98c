"""The command line in the process of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main


def run(cache: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """One command with a cache of its own."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return main(list(arguments))
