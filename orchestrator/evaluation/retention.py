"""What a model has forgotten over its task: the loss on test rows of what it could do before, of
the untouched base and of the winner.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.evaluation import registry
from jobs.evaluation.scored_rows import SOURCE
from jobs.evaluation.scores import SliceScores

Forgetting = dict[str, dict[str, float]]
"""Source -> rows, loss before and after, and the difference."""


def forgetting_of(
    retained: Sequence[str], before: SliceScores | None, after: SliceScores | None
) -> Forgetting:
    """By source, as far as both were measured."""
    base, winner = ((scores or {}).get(SOURCE, {}) for scores in (before, after))
    measured: Forgetting = {}
    for name in retained:
        first = base.get(name, {}).get(registry.LOSS)
        last = winner.get(name, {}).get(registry.LOSS)
        if first is not None and last is not None:
            measured[name] = {
                "rows": winner[name]["rows"],
                "before": first,
                "after": last,
                "change": last - first,
            }
    return measured


def metrics_of(forgetting: Forgetting) -> dict[str, float]:
    """As metrics of the winner."""
    return {
        f"{registry.TEST}/forgotten/{name}": scores["change"] for name, scores in forgetting.items()
    }
