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


LARGEST = 2**31
"""Counts stay below it: what keeps or sends them holds no larger ones."""
