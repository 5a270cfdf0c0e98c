"""How much each knob of the search space matters for the score, by PED-ANOVA (Watanabe et al.,
2023, as Optuna has it), and how the score follows each knob.
"""

from __future__ import annotations

import math
import statistics
import warnings
from typing import Any

from orchestrator.report.metric_text import rounded
from orchestrator.report.sweep_data import SweepData, TrialData, finite

FEWEST_TRIALS = 4
"""With fewer trials nothing can be said of a knob."""
TOP_TRIALS = 3
"""The trials that count as good are at least so many, at most half of all, else a tenth."""
MOST_BINS = 8


def importances(data: SweepData) -> dict[str, float]:
    """The importance of each knob, by its path: shares that add up to 1. Empty where too few trials
    have a score, or where all scores are equal.
    """
    trials = data.ranked()
    paths = searched_paths(data)
    scores = {trial.score for trial in trials}
    if len(trials) < FEWEST_TRIALS or len(scores) < 2 or not paths:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {
        path: distribution_of([trial.point.get(path) for trial in trials], knob)
        for path, knob in paths.items()
    }
    distributions = {path: kind for path, kind in distributions.items() if kind is not None}
    whole = [trial for trial in trials if all(path in trial.point for path in distributions)]
    if not distributions or len(whole) < FEWEST_TRIALS:
        return {}
    study = optuna.create_study(direction="maximize" if data.maximise else "minimize")
    for trial in whole:
        params = {path: encoded(trial.point[path], distributions[path]) for path in distributions}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=trial.score)
        )
    quantile = max(0.1, min(0.5, TOP_TRIALS / len(whole)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=evaluator, normalize=True)
    return {path: share for path, share in shares.items() if math.isfinite(share)}


def searched_paths(data: SweepData) -> dict[str, dict[str, Any]]:
    """The knobs that were searched by themselves, by path; one that follows another says nothing
    more.
    """
    return {knob["path"]: knob for knob in data.space.values() if knob.get("type") != "linked"}


def distribution_of(values: list[Any], knob: dict[str, Any]) -> Any:
    """A knob as Optuna's importance takes it, wide enough for all values; None for one that was the
    same in all trials.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    present = [value for value in values if value is not None]
    if len(set(map(str, present))) < 2:
        return None
    numbers = [finite(value) for value in present]
    if any(value is None for value in numbers) or knob.get("type") in ("choice", "grid"):
        return CategoricalDistribution(sorted(set(map(str, present))))
    drawn = [value for value in numbers if value is not None]
    low, high = finite(knob.get("low")), finite(knob.get("high"))
    ends = [end for end in (low, high) if end is not None]
    low, high = min([*drawn, *ends]), max([*drawn, *ends])
    return FloatDistribution(low, high, log=knob.get("type") == "loguniform" and low > 0)


def encoded(value: Any, distribution: Any) -> Any:
    """A value as its distribution holds it."""
    return str(value) if hasattr(distribution, "choices") else float(value)


def effect(trials: list[TrialData], values: dict[int, Any], logarithmic: bool) -> dict[str, Any]:
    """How the score follows one quantity: a point for each trial, and the quartiles of the scores
    in bins of it. `values` holds the quantity by trial index.
    """
    points: list[tuple[Any, float | None, int]] = [
        (values[trial.index], trial.score, trial.index)
        for trial in trials
        if values.get(trial.index) is not None
    ]
    numeric = all(finite(value) is not None for value, _, _ in points)
    if not numeric:
        points = [(str(value), score, index) for value, score, index in points]
    distinct: list[Any] = sorted({value for value, _, _ in points})
    groups = [[value] for value in distinct]
    if numeric and len(distinct) > MOST_BINS:
        groups = cut(distinct, logarithmic)
    bins = []
    for group in groups:
        scores = [score for value, score, _ in points if value in group and score is not None]
        if scores:
            center = statistics.median(group) if numeric else group[0]
            bins.append([rounded(center) if numeric else center, *quartiles(scores), len(scores)])
    shown = [[rounded(v) if numeric else v, rounded(s), index] for v, s, index in points]
    return {"points": shown, "bins": bins, "numeric": numeric, "log": numeric and logarithmic}


def cut(values: list[float], logarithmic: bool) -> list[list[float]]:
    """Sorted values in at most MOST_BINS groups of equal width."""
    scale = [math.log(v) if logarithmic and values[0] > 0 else v for v in values]
    width = (scale[-1] - scale[0]) / MOST_BINS or 1.0
    groups: dict[int, list[float]] = {}
    for value, at in zip(values, scale, strict=True):
        groups.setdefault(min(int((at - scale[0]) / width), MOST_BINS - 1), []).append(value)
    return [groups[bin_index] for bin_index in sorted(groups)]


def quartiles(scores: list[float]) -> list[float | None]:
    """Lower quartile, median and upper quartile."""
    if len(scores) == 1:
        return [rounded(scores[0])] * 3
    return [rounded(value) for value in statistics.quantiles(scores, n=4, method="inclusive")]
