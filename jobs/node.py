"""What one machine of a cluster sees, asked before work goes there."""

from __future__ import annotations

import platform

from jobs import store


def look(marker: str) -> tuple[bool, str]:
    """Whether this machine sees a file that another one has written, and this machine's Python version."""
    return store.exists(marker), platform.python_version()
