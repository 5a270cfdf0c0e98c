"""Progress of the experts that are trained before a search over mixes: lines of their own, since
they are no trials of the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.config.search_space import Point
from orchestrator.output.progress import ProgressDisplay


class ExpertProgress(ProgressDisplay):
    """What is shown of the experts, on the display of the sweep."""

    def __init__(self, sweep: ProgressDisplay, sources: Mapping[int, str], steps: int) -> None:
        """`sources` by the numbers of their experts."""
        super().__init__(len(sources), steps, sweep.metric, spending=sweep.spending)
        self.sweep = sweep
        self.sources = sources

    def label(self, index: int) -> str:
        """expert of titles"""
        return f"expert of {self.sources.get(index, index)}"

    def start(self, index: int, point: Point) -> None:
        """An expert starts, or returns from a pause."""
        super().start(index, {})
        self.show()

    def step(self, index: int, step: int, metrics: dict[str, float]) -> None:
        """An expert has taken a step."""
        super().step(index, step, metrics)
        self.show()

    def end(self, index: int, state: str, error: str | None, step: int = 0) -> None:
        """An expert has ended."""
        row = self.rows[index]
        row.state, row.step = state, max(row.step, step)
        told = f": {error}" if error else f" at step {row.step}"
        self.line(f"{self.label(index)}  {state}{told}", always=error is not None)

    def show(self) -> None:
        """How far they are, as the status of the sweep."""
        steps = [row.step for row in self.rows.values()]
        reached = " to ".join(str(step) for step in sorted({min(steps), max(steps)}))
        self.sweep.task = f"training experts  step {reached} of {self.steps}"

    def line(self, text: str, always: bool = False) -> None:
        """A plain line; on a terminal only what the table does not show."""
        self.sweep.line(text, always)

    def refresh(self, force: bool = False) -> None:
        """Redraw the sweep's table."""
        self.sweep.refresh(force)
