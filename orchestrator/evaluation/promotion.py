"""May this candidate replace the champion? A pure rule; `tracking` carries the decision out."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """How a model did on a test set."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    rows: int
    """Number of test rows."""
    digest: str
    """Fingerprint of the test set: only scores with the same one can be compared."""

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g}..{self.high:.4g}, {self.rows:,} rows)"


@dataclass(frozen=True)
class Decision:
    """Whether the champion's alias moves to the candidate, and why."""

    promote: bool
    reason: str


def decide(
    candidate: Scores,
    champion: Scores | None,
    floor: float | None = None,
    higher_is_better: bool = True,
    own_rows: bool = True,
) -> Decision:
    """Say whether `candidate` may take the champion's alias.

    With no champion it only has to be better than `floor`, the untouched base model's score. A tie
    keeps the champion: moving an alias restarts servers, so it must buy something. A score that is
    not a number never wins, and a champion without one never stays. `own_rows` is false for a
    champion that was chosen by other test rows than it is compared on now; the reason then says so.
    Raises ValueError when the two were measured on different test sets.
    """
    if champion is not None and candidate.digest != champion.digest:
        raise ValueError(
            f"scores on different test sets cannot be compared: candidate on {candidate.digest}, "
            f"champion on {champion.digest}; "
            "score the champion again on the candidate's test set"
        )
    if math.isnan(candidate.value):
        return Decision(False, "the candidate's score is not a number")
    if champion is not None:
        decision = _against(candidate, champion, higher_is_better)
        return (
            decision
            if own_rows
            else Decision(
                decision.promote, f"{decision.reason}; the champion was chosen by other test rows"
            )
        )
    if floor is not None and not _better(candidate.value, floor, higher_is_better):
        return Decision(False, f"{candidate} does not beat the untouched base model's {floor:.4g}")
    beaten = (
        "" if floor is None else f" and {candidate} beats the untouched base model's {floor:.4g}"
    )
    return Decision(
        True,
        f"there is no champion yet{beaten}"
        if beaten
        else f"there is no champion yet; the candidate scores {candidate}",
    )


def _against(candidate: Scores, champion: Scores, higher_is_better: bool) -> Decision:
    if _better(candidate.value, champion.value, higher_is_better):
        overlap = candidate.low <= champion.high and champion.low <= candidate.high
        return Decision(
            True,
            f"{candidate} beats the champion's {champion}"
            + ("; the intervals overlap" if overlap else ""),
        )
    if candidate.value == champion.value:
        return Decision(
            False, f"{candidate} only equals the champion's {champion}; a tie keeps the champion"
        )
    return Decision(False, f"{candidate} does not beat the champion's {champion}")


def _better(value: float, than: float, higher_is_better: bool) -> bool:
    if math.isnan(than):
        return True
    return value > than if higher_is_better else value < than
