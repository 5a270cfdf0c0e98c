"""How the mixes of a search over shares are found."""

from __future__ import annotations

from typing import Literal

from jobs.settings_checks import LARGEST, config, require

MOST_CANDIDATES = 10_000
FIRST_TRIALS = 2
"""The mixes by size and of equal shares, which are trained in any case."""


@config
class Mix:
    """How the mixes of a simplex are found."""

    method: Literal["search", "merge"] = "search"
    """search: each mix is trained to be scored. merge: one expert for each source is trained for a
    few steps, mixes are scored by merging the experts, and the best ones are trained (MergeMix,
    arXiv 2601.17858).
    """
    candidates: int = 24
    """merge: mixes that are scored by merging."""
    trained: int = 3
    """merge: so many of the best ones are trained, after the mixes by size and of equal shares."""
    steps: int | None = None
    """merge: optimizer steps of an expert. None: 60, or train.steps where that is less."""

    def __post_init__(self) -> None:
        require(
            (self.trained >= 1, f"mix.trained must be at least 1, got {self.trained}"),
            (
                self.trained + FIRST_TRIALS <= self.candidates <= MOST_CANDIDATES,
                f"mix.candidates must be between mix.trained + {FIRST_TRIALS} "
                f"({self.trained + FIRST_TRIALS}) and {MOST_CANDIDATES:,}, got {self.candidates}",
            ),
            (
                self.steps is None or 1 <= self.steps < LARGEST,
                f"mix.steps must be at least 1 and below 2**31, got {self.steps}",
            ),
        )
