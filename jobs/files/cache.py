"""Where this machine keeps what it has fetched."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where base models are kept: $ORCHESTRATOR_CACHE, else $XDG_CACHE_HOME/orchestrator, else
    ~/.cache/orchestrator.
    """
    if configured := os.environ.get("ORCHESTRATOR_CACHE"):
        return Path(configured).expanduser().absolute()
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
        / "orchestrator"
    )
