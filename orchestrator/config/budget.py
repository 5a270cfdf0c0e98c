"""What a sweep may spend, and what an hour of the machines costs.

A budget is a limit: where it is reached, the sweep ends with the best model so far. `sweep.minutes`
is no limit but a size: how much is planned.
"""

from __future__ import annotations

import datetime
import math

from jobs.settings_checks import config, require

UNITS = {
    "minutes": "min",
    "cpu_hours": "CPU core hours",
    "gpu_hours": "GPU hours",
    "money": "of money",
    "tokens": "training tokens",
}
"""The limits that are amounts, with their units in words."""


@config
class Budget:
    """The most that a sweep may spend, all its commands together. Where several limits are set,
    the first that is reached ends it.
    """

    minutes: float | None = None
    """Minutes that the sweep's commands run, from their start to their end."""
    cpu_hours: float | None = None
    """CPU cores that its workers hold, times the hours of its commands."""
    gpu_hours: float | None = None
    """The same for GPUs."""
    money: float | None = None
    """What that costs by cluster.prices, in their currency."""
    tokens: float | None = None
    """Tokens that trials are trained on, those of all trials together."""
    deadline: str | None = None
    """A moment by which the sweep has ended, such as 2026-12-01T08:00 (this machine's time) or
    2026-12-01T08:00+01:00.
    """

    def __post_init__(self) -> None:
        require(
            *(
                (
                    0 < amount < math.inf,
                    f"budget.{name} must be a number above 0, got {amount}; null sets no limit",
                )
                for name, amount in self.amounts().items()
            ),
            (
                self.deadline is None or moment_of(self.deadline) is not None,
                f"budget.deadline must be a moment such as 2026-12-01T08:00 or "
                f"2026-12-01T08:00+01:00, got {self.deadline!r}",
            ),
        )

    def amounts(self) -> dict[str, float]:
        """The limits that are set and are amounts, by name."""
        limits = {name: getattr(self, name) for name in UNITS}
        return {name: float(limit) for name, limit in limits.items() if limit is not None}

    @property
    def is_set(self) -> bool:
        """Whether there is any limit."""
        return bool(self.amounts()) or self.deadline is not None

    @property
    def ends_at(self) -> float | None:
        """The deadline in seconds since the epoch."""
        return None if self.deadline is None else moment_of(self.deadline)


@config
class Prices:
    """What the machines cost, in any one currency."""

    cpu_hour: float = 0.0
    """A CPU core for an hour."""
    gpu_hour: float = 0.0
    """A GPU for an hour."""
    hour: float = 0.0
    """An hour of the command, whatever it holds: a rented machine as a whole, a head node."""

    def __post_init__(self) -> None:
        prices = {"cpu_hour": self.cpu_hour, "gpu_hour": self.gpu_hour, "hour": self.hour}
        require(
            *(
                (
                    0 <= price < math.inf,
                    f"cluster.prices.{name} must be a number of at least 0, got {price}",
                )
                for name, price in prices.items()
            )
        )

    def per_hour(self, cpus: float, gpus: float) -> float:
        """What an hour costs with so many cores and GPUs."""
        return self.hour + cpus * self.cpu_hour + gpus * self.gpu_hour


def moment_of(text: str) -> float | None:
    """A moment in seconds since the epoch; None where the text is none. Without a time zone it is
    this machine's time.
    """
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
