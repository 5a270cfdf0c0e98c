"""A tracking store that cannot be reached."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.tracking.mlflow_store import connect


def problem(uri: str, folder: Path) -> str:
    """What is said of an address, within seconds and in one line."""
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        connect(uri, "orchestrator", folder)
    assert time.monotonic() - started < 8, "by itself MLflow tries for minutes"
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)
