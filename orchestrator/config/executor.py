"""Which executor runs a sweep: a pack where its trials can share one frozen base, else plain jobs.
A pure rule.
"""

from __future__ import annotations

from typing import Literal

from orchestrator.config.settings import Config

Executor = Literal["pack", "plain"]
SHARED = (
    "adapter.kind",
    "adapter.targets",
    "adapter.layers",
    "train.dtype",
    "train.num_workers",
    "train.cpus_per_worker",
    "train.gpus_per_worker",
)
"""Settings that all trials of a pack have in common."""


def why_plain(config: Config) -> str | None:
    """Why this sweep cannot be packed, as far as the configuration tells; the model itself is tried
    when the pack starts.
    """
    if config.adapter.kind == "full":
        return "adapter.kind=full trains every weight, so no base is shared"
    searched = [knob.path for knob in config.sweep.space.values() if knob.path in SHARED]
    return (
        f"the search changes {', '.join(searched)}, which the trials of a pack share"
        if searched
        else None
    )


def choose(config: Config) -> tuple[Executor, str | None]:
    """The executor, and why it is not a pack where the user left the choice open."""
    if config.executor == "plain":
        return "plain", None
    reason = why_plain(config)
    return ("plain", reason) if reason else ("pack", None)
