"""What a budget allows before the search of mix.method=merge: the experts' training and the scoring
of their mixes.
"""

from __future__ import annotations

from orchestrator.plan.budget import tolerance_seconds
from orchestrator.sweep.allowance import Allowance


class MergeAllowance(Allowance):
    """Nobody is judged of what comes before the search, so that nobody leads and nothing is ended
    early: it goes on until a limit is passed, and then the sweep ends.
    """

    def look(self) -> None:
        """End the sweep at a limit."""
        if not self.sweep_state.halted:
            self.sweep_state.abort_reason = self.sweep_state.abort_reason or self.overdrawn()

    def overdrawn(self) -> str | None:
        """The limit that is passed, of time by more than its tolerance, in words; None before."""
        limits = self.limits
        if limits is None:
            return None
        left, name = limits.left_seconds()
        if left < -tolerance_seconds(self.whole_seconds()):
            self.limit = name
        elif limits.tokens_left() <= 0:
            self.limit = "tokens"
        else:
            return None
        return (
            f"{self.reason()} before the experts' mixes are scored; raise it, or lower mix.steps "
            "or mix.candidates: what is done is kept"
        )
