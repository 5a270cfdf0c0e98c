"""Groups of settings within a section, by their dotted path."""

from __future__ import annotations

import dataclasses
import re

from jobs.check_settings import Checks
from jobs.neighbour_settings import Neighbours
from jobs.source_rows import Columns
from jobs.synthesis_settings import Filters, Judge, Teacher
from orchestrator.config.budget import Prices

NESTED: dict[str, type] = {
    "cluster.prices": Prices,
    "data.neighbours": Neighbours,
    "data.checks": Checks,
    "data.columns": Columns,
    "synthesis.teacher": Teacher,
    "synthesis.judge": Judge,
    "synthesis.filters": Filters,
}


def names_beside(path: str) -> list[str]:
    """The settings of the group that an unknown one stands in; empty where it stands in none."""
    group = path.rpartition(".")[0]
    kind = NESTED.get(re.sub(r"^data\.sources\.[^.]+\.columns$", "data.columns", group))
    if kind is None:
        return []
    return [f"{group}.{entry.name}" for entry in dataclasses.fields(kind)]
