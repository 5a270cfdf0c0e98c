"""The files that a sweep ships of its winner, and the limits of the devices that they are for:
what of it is known before anything is trained. Pure but for the headers of the base's weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.export.formats import FORMATS
from orchestrator.config.device_settings import Profile, profiles_of
from orchestrator.config.search_space import Point, extremes
from orchestrator.config.settings import Config
from orchestrator.config.shipping import formats_of
from orchestrator.config.validation import trial_of
from orchestrator.errors import ConfigError
from orchestrator.plan.file_sizes import least_megabytes

ADAPTER = "gguf-adapter"
SHAPES_THE_FILE = ("adapter.rank", "adapter.layers", "adapter.targets")
"""Settings that decide how large an adapter's file is."""


class SizeConstraint:
    """A limit of size as a constraint of the search: which points make a file that is too large
    for every device, before they cost anything.
    """

    def __init__(self, most: float, size: Callable[[Point], float]) -> None:
        self.most = most
        """The highest limit, in MB."""
        self._size = size

    def over(self, point: Point) -> float:
        """MB by which the smallest file of a trial is beyond the highest limit; 0 or less where it
        fits.
        """
        return self._size(point) - self.most

    def allows(self, point: Point) -> bool:
        """Whether a point's file may fit."""
        return self.over(point) <= 0


@dataclass(frozen=True)
class ShippingPlan:
    """What a sweep exports, and for which devices."""

    formats: tuple[str, ...]
    """Those that are made."""
    profiles: tuple[Profile, ...]
    sizes: dict[str, float] = field(default_factory=dict)
    """MB that a file has at least, by format; empty without the base model."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Formats that are not made, with the reason."""
    constraint: SizeConstraint | None = None
    """None where the size is the same for all trials."""
    rows: int | None = None
    """Test rows that the files are scored on; None: all."""

    def fits(self, profile: Profile) -> list[str]:
        """The formats whose size may be within a profile."""
        most = profile.limits.max_size_mb
        return [
            form
            for form in self.formats
            if most is None or form not in self.sizes or self.sizes[form] <= most
        ]

    def lines(self, num_test: int) -> list[tuple[str, str]]:
        """As the plan tells it."""
        if not self.formats:
            return []
        rows = num_test if self.rows is None else min(self.rows, num_test)
        sizes = ", ".join(
            f"{form} (at least {self.sizes[form]:,.1f} MB)" if form in self.sizes else form
            for form in self.formats
        )
        text = f"the winner as {sizes}, checked in its runtime and scored on {rows:,} test rows"
        lines = [("ships", f"{text}; that comes on top of the time below")]
        lines += [("ships", f"{form} is not made: {why}") for form, why in self.left_out.items()]
        for profile in self.profiles:
            alias = profile.alias
            outcome = f"the best file within that gets the alias {alias}"
            if profile.name is None:
                outcome = f"without a file within that nobody gets the alias {alias}"
            if not self.fits(profile):
                outcome = f"no file can be so small, so nobody gets the alias {alias}"
            told = f"{profile.label}: {profile}; {outcome}"
            lines.append(("device", told))
        return lines

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "formats": list(self.formats),
            "least_mb": {form: round(size, 3) for form, size in self.sizes.items()},
            "left_out": self.left_out,
            "profiles": {
                profile.alias: profile.limits.asked | {"formats": self.fits(profile)}
                for profile in self.profiles
            },
        }


def shipping_plan(config: Config, base: BaseModel | None) -> ShippingPlan | None:
    """What is exported; None where nothing is. Raises ConfigError where no file can be within any
    limit of size.
    """
    formats = formats_of(config)
    if not formats:
        return None
    profiles = tuple(profiles_of(config.device))
    rows = config.export.rows
    if base is None:
        return ShippingPlan(tuple(formats), profiles, rows=rows)
    check_architecture(base, formats)
    sizes = {form: least_megabytes(base, form, config.adapter) for form in formats}
    if ADAPTER in sizes and searched(config):
        smallest = least_megabytes(base, ADAPTER, smallest_adapter(config))
        sizes[ADAPTER] = smallest
    limits = [profile.limits.max_size_mb for profile in profiles]
    most = max((math.inf if limit is None else limit for limit in limits), default=math.inf)
    too_large = {form: size for form, size in sizes.items() if size > most}
    if len(too_large) == len(sizes):
        raise ConfigError(
            [(f"{largest(profiles).path}.max_size_mb", refusal(config, base, too_large, most))]
        )
    left_out = {
        form: f"it has at least {size:,.1f} MB, and the highest limit is {most:g}"
        for form, size in too_large.items()
    }
    made = tuple(form for form in formats if form not in left_out)
    constraint = None
    if made == (ADAPTER,) and most < math.inf and searched(config):

        def size(point: Point) -> float:
            return least_megabytes(base, ADAPTER, trial_of(config, 1, point).adapter)

        constraint = SizeConstraint(most, size)
    return ShippingPlan(made, profiles, sizes, left_out, constraint, rows)


def check_architecture(base: BaseModel, formats: list[str]) -> None:
    """Raise ConfigError for a base of which no file of one of these forms can be written."""
    from jobs.export import gguf_architecture, onnx_model  # numpy: a tenth of a second

    kinds = {FORMATS[form].kind for form in formats}
    name = architecture_of(base)
    alternative = gguf_architecture.ALTERNATIVE
    if any(kind.startswith("gguf") for kind in kinds) and name not in (
        None,
        *gguf_architecture.ARCHITECTURES,
    ):
        known = ", ".join(gguf_architecture.ARCHITECTURES)
        text = f"the base is a {name}, and GGUF files are written for {known}; {alternative}"
        raise ConfigError([("export.format", text)])
    if "onnx" in kinds and name is not None and not onnx_model.is_known(name):
        text = (
            f"the base is a {name}, which onnxruntime-genai's builder does not take; {alternative}"
        )
        raise ConfigError([("export.format", text)])


def architecture_of(base: BaseModel) -> str | None:
    """What a base says that it is; None where it cannot be read."""
    try:
        settings = json.loads((Path(base.path) / "config.json").read_text(encoding="utf-8"))
        return str((settings.get("architectures") or [])[0])
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return None


def largest(profiles: tuple[Profile, ...]) -> Profile:
    """The profile with the highest limit of size."""
    return max(profiles, key=lambda profile: profile.limits.max_size_mb or math.inf)


def searched(config: Config) -> bool:
    """Whether trials differ in how large their adapter's file is."""
    paths = {path for knob in config.sweep.space.values() for path in knob.paths}
    return bool(paths & set(SHAPES_THE_FILE))


def smallest_adapter(config: Config) -> Any:
    """The smallest adapter that the search space may hold."""
    point: Point = {}
    for knob in config.sweep.space.values():
        if knob.path in ("adapter.rank", "adapter.layers"):
            point[knob.path] = min(extremes(knob, config.sweep.space), key=float)
    return trial_of(config, 1, point).adapter


def refusal(config: Config, base: BaseModel, sizes: dict[str, float], most: float) -> str:
    """That no file can be within the limit."""
    told = ", ".join(f"{form} at least {size:,.1f} MB" for form, size in sizes.items())
    smaller = [
        name
        for name, form in FORMATS.items()
        if form.kind == "gguf" and least_megabytes(base, name, config.adapter) <= most
    ]
    remedy = "choose a smaller base model"
    if smaller:
        remedy = f"export.format={smaller[0]} may be small enough"
    return (
        f"is {most:g}, and a file of {config.model.name} has {told}: nothing is trained for it; "
        f"{remedy}"
    )
