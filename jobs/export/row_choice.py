"""Which of a version's test rows a file is scored on."""

from __future__ import annotations


def chosen(total: int, most: int | None) -> list[int]:
    """Positions of at most so many rows, spread over all."""
    if most is None or most >= total:
        return list(range(total))
    return [index * total // most for index in range(most)]
