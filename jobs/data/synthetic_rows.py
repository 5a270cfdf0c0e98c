"""Rows that a model has written: those that say so in a column of their own.

The convention is an object `provenance` with `teacher` (the model that wrote the row), `recipe` and
`seed`; a column `synthetic` that is true says the same without a name.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

PROVENANCE, SYNTHETIC, TEACHER, RECIPE = "provenance", "synthetic", "teacher", "recipe"
COLUMNS = (PROVENANCE, SYNTHETIC)
"""Columns that are read beside prompt and answer."""
UNNAMED = "a model without a name"
FALSE = ("", "0", "false", "no", "none", "null")
"""What a text file writes for a row that is real, case folded."""


def teacher_of(record: dict[str, Any]) -> str:
    """Which model, or which rule, has written a row; empty for a real one."""
    origin = record.get(PROVENANCE)
    if isinstance(origin, str):
        with contextlib.suppress(ValueError):
            origin = json.loads(origin)
    if isinstance(origin, dict) and origin:
        return str(origin.get(TEACHER) or origin.get(RECIPE) or UNNAMED)
    synthetic = record.get(SYNTHETIC)
    if synthetic is None or str(synthetic).strip().casefold() in FALSE:
        return ""
    return UNNAMED
