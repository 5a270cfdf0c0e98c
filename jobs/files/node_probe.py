"""What one machine of a cluster sees, asked before work goes there."""

from __future__ import annotations

import platform

from jobs.files import filesystem


def look(locations: list[str]) -> tuple[list[bool], str]:
    """Which files and folders this machine sees, and this machine's Python version."""
    return [filesystem.exists(location) for location in locations], platform.python_version()
