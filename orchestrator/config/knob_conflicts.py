"""What is wrong between the knobs of a search space. Pure."""

from __future__ import annotations

from orchestrator.config.search_space import Knob


def problems(space: dict[str, Knob]) -> list[tuple[str, str]]:
    """What is wrong between the knobs: two on one setting, a link to nothing or to itself."""
    faults: list[tuple[str, str]] = []
    owner: dict[str, str] = {}
    for name, knob in space.items():
        twice = next((path for path in knob.paths if path in owner), None)
        if twice is not None:
            faults.append(
                (
                    f"sweep.space.{name}.path",
                    f"{twice} is searched twice, also by sweep.space.{owner[twice]}",
                )
            )
        owner |= dict.fromkeys(knob.paths, name)
    simplexes = [name for name, knob in space.items() if knob.type == "simplex"]
    faults += [
        (f"sweep.space.{name}", f"is a second simplex, beside sweep.space.{simplexes[0]}")
        for name in simplexes[1:]
    ]
    free = {path: knob for knob in space.values() if knob.type != "linked" for path in knob.paths}
    for name, knob in space.items():
        if knob.type != "linked":
            continue
        if knob.to not in free:
            faults.append(
                (
                    f"sweep.space.{name}.to",
                    f"{knob.to} is not a searched setting; searched are "
                    f"{', '.join(free) or 'none'}",
                )
            )
        elif knob.values is not None and len(knob.values) != len(free[knob.to].values or []):
            faults.append((f"sweep.space.{name}.values", f"needs one value per value of {knob.to}"))
        elif knob.values is None and any(
            isinstance(value, str) for value in free[knob.to].values or []
        ):
            faults.append(
                (
                    f"sweep.space.{name}.values",
                    f"must be set, one value per value of {knob.to}, because those are texts",
                )
            )
    return faults
