"""What of the rows decides how long training and judging take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.plan.hidden_reuse import SourceRows


@dataclass(frozen=True)
class RowCounts:
    """What of the rows decides the cost."""

    tokens: float
    """Of an example, less what the examples of a batch share."""
    answer: float
    """Tokens of an example that carry loss."""
    valid: int
    scored: int
    """Validation rows that are answered at a rung."""
    test: int
    reply: float = 0.0
    """Tokens of the right answer to a test row."""
    limit: float = 0.0
    """Tokens at which any answer ends."""
    shown: float = 0.0
    """Tokens of a prompt's neighbours, which stand in `tokens` too."""
    sources: tuple[SourceRows, ...] = ()
    """Of the training rows; none: no row is met twice."""
    length: float = 0.0
    """Tokens of an example with what it shares with others; 0: as many as `tokens`."""
    lasting: float = math.inf
    """Examples of a trial before its sources are used up."""

    @property
    def trained(self) -> float:
        """Tokens of an example as a trial counts those that it trains on."""
        return max(self.length, self.tokens, 1.0)

    @property
    def question(self) -> float:
        """Tokens of a prompt, less what all begin with."""
        return max(self.tokens - self.reply, 1.0)
