"""Profiles of devices by name: device.profiles=[phone, laptop] reads conf/device/phone.yaml and so
on, first in a folder of the user's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config.yaml_text import parse
from orchestrator.project import ROOT


def with_profiles(
    raw: dict[str, Any], folder: str | None, problems: list[tuple[str, str]]
) -> dict[str, Any]:
    """`raw` with the limits of the profiles that device.profiles names in a list; what is wrong
    with them goes to `problems`.
    """
    device = raw.get("device")
    named = device.get("profiles") if isinstance(device, dict) else None
    if isinstance(device, dict) and isinstance(named, str):
        problems.append(
            ("device.profiles", f'"{named}" is no list; write device.profiles=[{named}]')
        )
        return raw | {"device": device | {"profiles": {}}}
    if not isinstance(device, dict) or not isinstance(named, list):
        return raw
    profiles: dict[str, Any] = {}
    for name in map(str, named):
        if name in profiles:
            problems.append(("device.profiles", f"names {name} twice"))
            continue
        file = profile_file(name, folder)
        if file is None:
            there = ", ".join(profile_names(folder))
            problems.append(("device.profiles", f'"{name}" is not one of {there}'))
            continue
        limits = parse(file.read_text(encoding="utf-8"))
        if not isinstance(limits, dict):
            problems.append(
                ("device.profiles", f"{file} must hold limits by name, such as max_size_mb: 300")
            )
            continue
        profiles[name] = {key: value for key, value in limits.items() if key != "name"}
    return raw | {"device": device | {"profiles": profiles}}


def roots(folder: str | None) -> list[Path]:
    """Where profiles lie, the user's own first."""
    own = [] if folder is None else [Path(folder) / "device"]
    return [*own, ROOT / "conf" / "device"]


def profile_names(folder: str | None) -> list[str]:
    """The profiles that there are."""
    return sorted({file.stem for root in roots(folder) for file in root.glob("*.yaml")})


def profile_file(name: str, folder: str | None) -> Path | None:
    """The file of a profile; None where there is none."""
    files = [root / f"{name}.yaml" for root in roots(folder)]
    return next((file for file in files if file.is_file()), None)
