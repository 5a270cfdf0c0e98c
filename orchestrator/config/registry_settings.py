"""What decides who becomes champion."""

from __future__ import annotations

import math
from dataclasses import field

from jobs.settings_checks import config, require

RIVALS = ("base", "baselines", "champion")
"""What a candidate can be asked to beat."""


@config
class Registry:
    """What a candidate must do to become champion."""

    beat: list[str] = field(default_factory=lambda: list(RIVALS))
    """base: the untouched base model. baselines: lookups and the base with examples in its prompt.
    champion: the version that holds the alias. []: nothing.
    """
    error_rate: float = 0.05
    """How often a candidate that is no better than what it must beat may look so by chance."""
    margin: float = 0.0
    """By how much it must be better, in the metric's unit; any gain at 0."""
    floor: float | None = None
    """Score that it must reach, whatever others have; of a loss, the highest."""
    max_megabytes: float | None = None
    """Weights that serving it loads, the base's and what was trained, in 10**6 bytes."""
    max_seconds: float | None = None
    """Mean time for a test row while it is judged; rows are answered many at once."""
    forbid_slice_regression: bool = False
    """Whether it may do worse than the champion on no slice of the test rows."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.beat if name not in RIVALS]
        limits = {"max_megabytes": self.max_megabytes, "max_seconds": self.max_seconds}
        require(
            (
                not unknown,
                f"registry.beat takes {', '.join(RIVALS)}, got {', '.join(map(repr, unknown))}",
            ),
            (
                len(set(self.beat)) == len(self.beat),
                f"registry.beat must name each once, got {', '.join(self.beat)}",
            ),
            (
                self.floor is None or math.isfinite(self.floor),
                f"registry.floor must be a finite number, got {self.floor}",
            ),
            (
                0 < self.error_rate <= 0.5,
                f"registry.error_rate must be above 0 and at most 0.5, got {self.error_rate}",
            ),
            (
                0 <= self.margin < float("inf"),
                f"registry.margin must be a number of at least 0, got {self.margin}",
            ),
            *(
                (
                    limit is None or 0 < limit < float("inf"),
                    f"registry.{name} must be above 0, got {limit}",
                )
                for name, limit in limits.items()
            ),
        )
