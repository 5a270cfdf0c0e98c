"""What the tests of plans share: plans of the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.config.compose import compose
from orchestrator.plan import planner as planning
from orchestrator.plan.planner import Plan
from tests.support.settings import build


@pytest.fixture(scope="module")
def ready(cache: Path) -> Path:
    """A cache in which the tiny model lies ready."""
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    return cache


@pytest.fixture
def plan(ready: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`plan(*arguments)` plans on the tiny model, the toy data and an empty store."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(ready))

    def make(*arguments: str) -> Plan:
        base = ["model=tiny", "data=files", f"data.folder={toy}", f"storage={tmp_path / 'outputs'}"]
        return planning.make(build(compose([*base, *arguments], None)))

    return make
