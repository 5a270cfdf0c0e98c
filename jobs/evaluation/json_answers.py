"""Answers that are JSON: reading them, and whether a task asks for them. Imports no numpy: the plan
uses it too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse(text: str) -> tuple[Any] | None:
    """The JSON value of a text, in a tuple since null is one; None where it is no JSON."""
    try:
        return (json.loads(text, parse_constant=refuse),)
    except (ValueError, RecursionError):
        return None


def refuse(name: str) -> Any:
    """NaN and Infinity are words of Python's, not of JSON."""
    raise ValueError(name)


def is_structured(references: Sequence[str]) -> bool:
    """Whether all of some reference answers are JSON objects or lists."""
    values = [parse(text) for text in references]
    return bool(values) and all(
        value is not None and isinstance(value[0], dict | list) for value in values
    )
