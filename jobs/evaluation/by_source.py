"""The parts of a validation split by the source of their rows."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.data.readers import Row
from jobs.evaluation import registry
from jobs.evaluation.scores import plain
from jobs.evaluation.slices import fold


def sources_of(rows: Sequence[Row]) -> list[str]:
    """The source of each row, those of many rare ones under one name; none where the rows do not
    tell, or all have the same one.
    """
    names = [row.source for row in rows]
    return fold(names) if len(set(names)) > 1 else []


def numbered(names: Sequence[str], count: int) -> tuple[list[str], list[int]]:
    """The different sources, and the number of each row's; one without a name where they do not
    tell.
    """
    distinct = sorted(set(names)) or [""]
    place = {name: number for number, name in enumerate(distinct)}
    return distinct, [place[name] for name in names] if names else [0] * count


def key(name: str, metric: str) -> str:
    """The name of a metric of the rows of one source."""
    return f"{registry.VALID}/source/{plain(name)}/{metric}"
