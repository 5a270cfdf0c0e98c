"""Settings of the mix that are more than a number, and what is checked of them."""

from __future__ import annotations

from typing import Literal

Exhausted = Literal["cycle", "stop", "renormalise"]
"""What happens when a source is used up; see `jobs/data/shares.py`."""


def epochs_checks(epochs: float | None) -> tuple[bool, str]:
    """Whether a source can be drawn so many times over, and what is said where it cannot."""
    return (
        epochs is None or 0 <= epochs < float("inf"),
        f"data.sources.*.epochs must be a number of at least 0, got {epochs}",
    )


def cap_checks(max_epochs: int | None) -> tuple[bool, str]:
    """The same of the most walks through any source."""
    return (
        max_epochs is None or 1 <= max_epochs < 2**31,
        f"data.max_epochs must be at least 1 and below 2**31, got {max_epochs}",
    )
