"""What merging experts has said of mixes before the search, beside what training them has shown."""

from __future__ import annotations

import statistics
from typing import Any

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
    candidates.sort(key=lambda each: sign * each[1])
    trials = [trial_with(data, shares) for shares, _ in candidates]
    step = common_step([trial for trial in trials if trial is not None])
    pairs: list[tuple[float, float]] = []
    rows = []
    sources = sorted(candidates[0][0])
    for (shares, predicted), trial in zip(candidates, trials, strict=True):
        trained = None if trial is None else score_at(data, trial, step)
        if trained is not None:
            pairs.append((predicted, trained))
        cell = "" if trial is None else {"trial": trial.index}
        mix = [rounded(shares[source]) for source in sources]
        rows.append([rounded(predicted), rounded(trained), cell, *mix])
    when = "" if step is None else f" at step {step}"
    head = [f"{data.stem} merged", f"{data.stem} trained{when}", "trial"]
    correlation = spearman(pairs)
    return {
        "head": [*head, *(f"share of {source}" for source in sources)],
        "rows": rows[:MOST_ROWS],
        "correlation": rounded(correlation),
        "trained": len(pairs),
        "text": text(data, len(candidates), pairs, correlation, when),
    }


def readable(data: SweepData) -> list[tuple[dict[str, float], float]]:
    """The mixtures with their shares and their score; what someone has edited is left out."""
    found = []
    names: set[str] | None = None
    listed = data.mixtures.get("candidates")
    for each in listed if isinstance(listed, list) else []:
        shares = each.get("shares") if isinstance(each, dict) else None
        predicted = finite(each.get("predicted")) if isinstance(each, dict) else None
        if not isinstance(shares, dict) or predicted is None:
            continue
        numbers = {str(name): finite(share) for name, share in shares.items()}
        mix = {name: share for name, share in numbers.items() if share is not None}
        names = names or set(mix)
        if mix and set(mix) == names:
            found.append((mix, predicted))
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


def text(
    data: SweepData,
    num_candidates: int,
    pairs: list[tuple[float, float]],
    correlation: float | None,
    when: str,
) -> str:
    """In words."""
    told = f"{num_candidates} mixtures were scored by merging one expert per source"
    if len(pairs) < FEWEST:
        return f"{told}; {len(pairs)} of them have a trained score{when}, too few to compare."
    compared = f"{told}; {len(pairs)} of them were trained{when}"
    if correlation is None:
        return f"{compared}, and all on one side have the same {data.stem}: no rank correlation."
    return (
        f"{compared}, and the order of both scores agrees with a rank correlation (Spearman) of "
        f"{shown(correlation)}: 1 is the same order, 0 none."
    )
