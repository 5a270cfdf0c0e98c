"""Limits of the device that a model is for, and the aliases that go to files within them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from jobs.config import config, require

LIMITS = {
    "max_size_mb": "MB on disk",
    "max_memory_mb": "MB of memory",
    "min_tokens_per_second": "tokens per second",
    "max_drop": "of the score",
}
"""Each limit and its unit."""
CHAMPION = "champion"


@config
class Limits:
    """What a file may cost where it runs."""

    max_size_mb: float | None = None
    """Of all files that serving it needs, in 10**6 bytes."""
    max_memory_mb: float | None = None
    """Most memory of the process that answers, in 10**6 bytes."""
    min_tokens_per_second: float | None = None
    """While it answers one prompt at a time, on the machine that measures it."""
    max_drop: float | None = None
    """By how much its score may be worse than the trained model's on the same rows, in the metric's
    unit.
    """
    threads: int | None = None
    """With how many threads the speed has to be reached. None: with any that was measured."""

    def __post_init__(self) -> None:
        require(
            *(
                (
                    value is None or 0 < value < float("inf"),
                    f"*.{name} must be above 0, got {value}",
                )
                for name, value in (
                    ("max_size_mb", self.max_size_mb),
                    ("max_memory_mb", self.max_memory_mb),
                    ("min_tokens_per_second", self.min_tokens_per_second),
                )
            ),
            (
                self.max_drop is None or 0 <= self.max_drop < float("inf"),
                f"*.max_drop must be a number of at least 0, got {self.max_drop}",
            ),
            (
                self.threads is None or 1 <= self.threads <= 1024,
                f"*.threads must be between 1 and 1024, got {self.threads}",
            ),
        )

    @property
    def asked(self) -> dict[str, float]:
        """The limits that are set."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value is not None}


@config
class Device:
    """The device that a sweep's winner is for: conf/device has phone, laptop and server. Limits
    without a name decide about the alias champion.
    """

    name: str | None = None
    """Of the profile: the best file within its limits gets the alias champion-NAME."""
    max_size_mb: float | None = None
    """MB (10**6 bytes) on disk that the exported file may have."""
    max_memory_mb: float | None = None
    """MB of memory that its process may take."""
    min_tokens_per_second: float | None = None
    """How fast it must answer on this machine."""
    max_drop: float | None = None
    """By how much its score may be worse than the trained model's on the same rows."""
    threads: int | None = None
    """With how many threads the speed has to be reached. None: with any that was measured."""
    profiles: dict[str, Limits] = field(default_factory=dict)
    """More profiles by name; on the command line a list names files of conf/device."""

    def __post_init__(self) -> None:
        asked = self.limits.asked
        names = [*self.profiles, *([] if self.name is None else [self.name])]
        odd = [name for name in names if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name)]
        require(
            (
                not odd,
                "device.name must be lower-case letters, digits and . _ -, got "
                f"{', '.join(map(repr, odd))}",
            ),
            (
                self.name is None or self.name not in self.profiles,
                f"device.profiles has {self.name} too, which is device.name; leave one of them out",
            ),
            (
                self.threads is None or asked.keys() >= {"min_tokens_per_second"},
                f"device.threads={self.threads} has no effect without device.min_tokens_per_second",
            ),
            (
                self.name is None or bool(asked),
                f"device.name={self.name} has no limits; set {', '.join(LIMITS)}",
            ),
            *(
                (bool(limits.asked), f"device.profiles.{name} has no limits: {', '.join(LIMITS)}")
                for name, limits in self.profiles.items()
            ),
        )

    @property
    def limits(self) -> Limits:
        """Those that stand beside the name."""
        names = (*LIMITS, "threads")
        return Limits(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Profile:
    """Limits, and the alias that a file within them may get."""

    name: str | None
    limits: Limits
    path: str = "device"
    """Where the limits stand in the configuration."""

    @property
    def alias(self) -> str:
        """The alias in the registry."""
        return CHAMPION if self.name is None else f"{CHAMPION}-{self.name}"

    @property
    def label(self) -> str:
        """For people."""
        return self.name or "device"

    def __str__(self) -> str:
        limits = self.limits
        told = []
        if limits.max_size_mb is not None:
            told.append(f"at most {limits.max_size_mb:g} MB")
        if limits.max_memory_mb is not None:
            told.append(f"{limits.max_memory_mb:g} MB of memory")
        if limits.min_tokens_per_second is not None:
            threads = "" if limits.threads is None else f" on {limits.threads} threads"
            told.append(f"at least {limits.min_tokens_per_second:g} tokens/s{threads}")
        if limits.max_drop is not None:
            told.append(f"a drop of at most {limits.max_drop:g}")
        return ", ".join(told)


def profiles_of(device: Device) -> list[Profile]:
    """Everything whose limits are looked at, the one without a name first."""
    alone = device.limits
    own = [Profile(device.name, alone)] if alone.asked else []
    named = device.profiles.items()
    return [*own, *(Profile(name, limits, f"device.profiles.{name}") for name, limits in named)]
