"""The tiny model in a cache of its own, for commands that plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return cache
