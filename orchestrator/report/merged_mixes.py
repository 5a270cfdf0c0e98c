"""What merging experts has said of mixes before the search, beside what training them has shown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from jobs.evaluation.registry import VALID_LOSS
from orchestrator.report.metric_text import rounded, shown
from orchestrator.report.mix_knobs import source_of
from orchestrator.report.sweep_data import SweepData, TrialData, finite

FEWEST = 3
"""Mixtures that were both merged and trained, for a rank correlation."""
SAME = 1.5e-3
"""Shares that differ by less are of one mix: they are kept in thousandths, the first ones finer."""
MOST_ROWS = 200


def merged(data: SweepData) -> dict[str, Any] | None:
    """The mixtures by their score as merged experts, each with the trial that was trained on it;
    None where nothing was merged.
    """
    candidates = readable(data)
    if not candidates:
        return None
    sign = -1 if data.maximise else 1
    candidates.sort(key=lambda each: (sign * each.predicted, each.loss or 0.0))
    trials = [trial_with(data, each.shares) for each in candidates]
    step = common_step([trial for trial in trials if trial is not None])
    scores, losses = Pairs(data.stem), Pairs("loss")
    rows = []
    sources = sorted(candidates[0].shares)
    for each, trial in zip(candidates, trials, strict=True):
        trained = None if trial is None else score_at(data, trial, step)
        loss = None if trial is None or step is None else trial.reports[step].get(VALID_LOSS)
        scores.add(each.predicted, trained)
        losses.add(each.loss, loss)
        cell = "" if trial is None else {"trial": trial.index}
        compared = [each.predicted, trained, each.loss, loss]
        mix = [each.shares[source] for source in sources]
        rows.append([cell, *map(rounded, [*compared, *mix])])
    when = "" if step is None else f" at step {step}"
    head = ["trial", *scores.head(when), *losses.head(when)]
    shares = [f"share of {source}" for source in sources]
    kinds = [scores] if data.stem == "loss" else [scores, losses]
    return {
        "head": [*head, *shares],
        "rows": rows[:MOST_ROWS],
        "trained": len(scores.pairs),
        "correlation": rounded(scores.correlation()),
        "loss_correlation": rounded(losses.correlation()),
        "text": text(len(candidates), kinds, when),
    }


@dataclass(frozen=True)
class Candidate:
    """A mixture that was scored by merging experts."""

    shares: dict[str, float]
    predicted: float
    loss: float | None


class Pairs:
    """What merged experts have scored in a metric, and what training has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: list[tuple[float, float]] = []

    def add(self, merged_score: float | None, trained: float | None) -> None:
        """Take in a mixture that has both."""
        if merged_score is not None and trained is not None:
            self.pairs.append((merged_score, trained))

    def head(self, when: str) -> list[str]:
        """The names of the two columns."""
        return [f"{self.name} merged", f"{self.name} trained{when}"]

    def correlation(self) -> float | None:
        """Their rank correlation, where it can be told."""
        return spearman(self.pairs)

    def told(self) -> str:
        """That in words."""
        correlation = self.correlation()
        if correlation is None:
            return f"by {self.name} none, since all on one side have the same"
        return f"by {self.name} {shown(correlation)}"


def readable(data: SweepData) -> list[Candidate]:
    """The mixtures with their shares and their scores; what someone has edited is left out."""
    found: list[Candidate] = []
    listed = data.mixtures.get("candidates")
    for each in listed if isinstance(listed, list) else []:
        shares = each.get("shares") if isinstance(each, dict) else None
        predicted = finite(each.get("predicted")) if isinstance(each, dict) else None
        if not isinstance(shares, dict) or predicted is None:
            continue
        numbers = {str(name): finite(share) for name, share in shares.items()}
        mix = {name: share for name, share in numbers.items() if share is not None}
        if mix and (not found or set(mix) == set(found[0].shares)):
            found.append(Candidate(mix, predicted, finite(each.get("loss"))))
    return found


def trial_with(data: SweepData, shares: dict[str, float]) -> TrialData | None:
    """The first trial that was trained on a mix."""
    for trial in data.trials:
        weights = {
            source: finite(value)
            for path, value in trial.point.items()
            if (source := source_of(path)) in shares
        }
        if set(weights) == set(shares) and all(
            weight is not None and abs(weight - shares[str(source)]) < SAME
            for source, weight in weights.items()
        ):
            return trial
    return None


def common_step(trials: list[TrialData]) -> int | None:
    """The last step at which all of them were evaluated, so that they compare."""
    steps = [set(trial.reports) for trial in trials if trial.reports]
    return max(set.intersection(*steps), default=None) if steps else None


def score_at(data: SweepData, trial: TrialData, step: int | None) -> float | None:
    """A trial's score at a step; its best one where no step is common to all."""
    if step is None:
        return trial.score
    return data.value_in(trial.reports.get(step))


def spearman(pairs: list[tuple[float, float]]) -> float | None:
    """The rank correlation of pairs; None for fewer than three, and where all on a side are
    alike.
    """
    if len(pairs) < FEWEST:
        return None
    sides = [list(side) for side in zip(*pairs, strict=True)]
    if any(len(set(side)) < 2 for side in sides):
        return None
    return statistics.correlation(*map(ranks, sides))


def ranks(values: list[float]) -> list[float]:
    """The rank of each value, the mean of their places for equal ones."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def text(num_candidates: int, kinds: list[Pairs], when: str) -> str:
    """In words."""
    told = f"{num_candidates} mixtures were scored by merging one expert per source"
    num_trained = len(kinds[0].pairs)
    if num_trained < FEWEST:
        return f"{told}; {num_trained} of them have a trained score{when}, too few to compare."
    agreement = ", ".join(pairs.told() for pairs in kinds)
    return (
        f"{told}; {num_trained} of them were trained{when}. Rank correlation (Spearman) of merged "
        f"and trained scores: {agreement}. 1 is the same order, 0 none, -1 the opposite one."
    )
