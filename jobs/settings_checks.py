"""What the settings classes are made with: frozen, keyword-only, and checked when they are made."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, dataclass_transform


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type) -> Any:
    """Make `cls` a frozen keyword-only dataclass that refuses unknown keys when pydantic reads it,
    and takes 2024 for a text.
    """
    cls.__pydantic_config__ = {"extra": "forbid", "coerce_numbers_to_str": True}
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def require(*checks: tuple[bool, str]) -> None:
    """Raise one ValueError with the message of every check that does not hold, a line each; it
    starts with its setting's dotted path.
    """
    failed = [message for holds, message in checks if not holds]
    if failed:
        raise ValueError("\n".join(failed))


def is_name(text: str) -> bool:
    """Whether `text` can be in a model's and a file's name: no "/", ":", "@" or quotes."""
    return re.fullmatch(r"\w[\w .+-]*", text) is not None


def target_checks(targets: str) -> list[tuple[bool, str]]:
    """What the names of the layers that carry an adapter must be, for `require`."""
    names = ",".join(re.findall(r"[\w.-]+", targets)) or "q_proj,v_proj"
    are_names = all(re.fullmatch(r"\s*[\w.-]+\s*", name) for name in targets.split(","))
    text = (
        "adapter.targets must be names of layers with commas between them, without brackets or "
        f'quotes, or all-linear, got "{targets}"; write adapter.targets={names}'
    )
    return [(are_names, text)]


LARGEST = 2**31
"""Counts stay below it: what keeps or sends them holds no larger ones."""
