"""How many training rows stand before each question, and in which order."""

from __future__ import annotations

from typing import Literal

from jobs.settings_checks import config, require

MOST_NEIGHBOURS = 32
"""Neighbours that a prompt may show: so many are looked up once for each row."""


@config
class Neighbours:
    """The most similar training rows with different answers, which stand before each question: in
    training, when trials are compared and judged, and in use.
    """

    count: int = 0
    """How many, each with another answer. 0: none."""
    order: Literal["nearest_last", "nearest_first", "shuffled"] = "nearest_last"
    """Their order in training. shuffled: by row and epoch, so that no place gives the answer away;
    the nearest is then last when a model is asked.
    """
    embedding: str | None = None
    """An embedding model by which rows are similar: a folder, or hf://ORG/NAME of the hub. null: by
    their letters (TF-IDF).
    """

    def __post_init__(self) -> None:
        require(
            (
                0 <= self.count <= MOST_NEIGHBOURS,
                f"data.neighbours.count must be between 0 and {MOST_NEIGHBOURS}, got {self.count}",
            ),
            (
                self.embedding != "",
                "data.neighbours.embedding names no folder; null looks rows up by their letters",
            ),
        )
