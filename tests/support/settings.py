"""A configuration as the command line builds it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from orchestrator.config import validation
from orchestrator.config.fleet import build_fleet, is_fleet
from orchestrator.config.settings import Config
from orchestrator.launch import preflight


def build(raw: dict[str, Any], typed: Collection[str] = ()) -> Config:
    """Read a composed dictionary with every check that the command line makes; of a fleet the
    configuration of its first task.
    """
    if is_fleet(raw):
        return build_fleet(raw, typed, (preflight.problems,))[0].config
    return validation.build(raw, typed, (preflight.problems,))
