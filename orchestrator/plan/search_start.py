"""Where a sweep's search begins: the ranges of learning rate and rank that nobody has chosen, and
the first trials' values, from what is known to be good or from what earlier sweeps have found.

What the first run has decided is kept in the sweep's folder, beside its sizes: a longer or wider
run of it has other steps and may find other sweeps, and its trials must have the same points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.left_open import ENDS, RANKS, RATES, STEPS
from orchestrator.config.search_space import Knob, Value
from orchestrator.config.settings import Config, changed
from orchestrator.plan import learning_rates, priors, ranks
from orchestrator.plan.batch_sizes import mean_batch
from orchestrator.plan.model_shape import hidden_size, num_layers

if TYPE_CHECKING:
    from jobs.config import BaseModel
    from jobs.data.corpus import Corpus
    from orchestrator.plan.data_statistics import Measured
    from orchestrator.plan.priors import Finding

RATE, RANK = "optim.lr", "adapter.rank"
DECIDED = ("low", "high", "values", "first")
"""What of a knob is decided here, and kept."""
WIDTH = learning_rates.BELOW * learning_rates.ABOVE
"""Of a range of which one end is chosen, so that the good rates lie beyond it: high / low."""
PRIOR_REACH = 4.0
"""Searched are the learning rates between the best ones of earlier sweeps, and so far beyond."""


@dataclass(frozen=True)
class Start:
    """How a search begins."""

    knobs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """What was decided of the knobs, by name."""
    found: str | None = None
    """What of earlier sweeps it begins with, in words."""

    def settings(self) -> list[str]:
        """What was decided, as it is typed."""
        return [
            f"sweep.space.{name}.{key}={typed(value)}"
            for name, decided in self.knobs.items()
            for key, value in decided.items()
        ]


def typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def started(
    config: Config,
    name: str,
    base: BaseModel | None,
    corpus: Corpus,
    measured: Measured,
    record: Any,
) -> tuple[Config, Start]:
    """The configuration with the ranges and first values of its search, as the sweep's first run
    has decided them (`record`) or as they follow from base, rows and steps. Without the base model,
    or where the sweep's size is not known yet, nothing is decided.
    """
    kept = read_start(config, record)
    if kept is None:
        if base is None or not config.sweep.space or config.job.kind != "train":
            return config, Start()
        if STEPS in config.left_open and not config.runs_here:
            return config, Start()
        kept = decide(config, name, base, corpus, measured)
    return with_knobs(config, kept.knobs), kept


def read_start(config: Config, record: Any) -> Start | None:
    """What an earlier run has kept; None where that does not fit the search space."""
    if not isinstance(record, dict) or not isinstance(record.get("knobs"), dict):
        return None
    found = record.get("found")
    start = Start(record["knobs"], found if isinstance(found, str) else None)
    try:
        with_knobs(config, start.knobs)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    return start


def with_knobs(config: Config, knobs: Mapping[str, dict[str, Any]]) -> Config:
    """The configuration with what was decided of its knobs."""
    space = dict(config.sweep.space)
    for name, decided in knobs.items():
        space[name] = dataclasses.replace(space[name], **decided)
    return changed(config, sweep=dataclasses.replace(config.sweep, space=space))


def decide(config: Config, name: str, base: BaseModel, corpus: Corpus, measured: Measured) -> Start:
    """The ranges and first values. Raises ConfigError for a sweep.prior that has found nothing."""
    findings: list[Finding] = []
    if config.sweep.prior is not None and config.runs_here:
        findings = priors.find(config, name, base, corpus.digests)[: priors.MOST_POINTS]
    hidden = hidden_size(Path(base.path))
    decided: dict[str, dict[str, Any]] = {}
    for label, knob in config.sweep.space.items():
        values = [finding.params[knob.path] for finding in findings if knob.path in finding.params]
        new: dict[str, Any] = {}
        if knob.path == RATE and config.adapter.kind == "lora" and hidden:
            new = rates(config, knob, base, hidden, values)
        elif knob.path == RANK:
            new = rank_values(config, knob, base, hidden, measured, values)
        if new:
            decided[label] = new
    return with_findings(config, Start(decided), findings)


def rates(
    config: Config, knob: Knob, base: BaseModel, hidden: int, found: list[Any]
) -> dict[str, Any]:
    """The range of the learning rate, as far as it is left open, and its first values. Where
    earlier sweeps have found some, the range lies around those; it holds first values that
    somebody has chosen.
    """
    if knob.type not in ("loguniform", "uniform"):
        return {}
    layers = num_layers(Path(base.path))
    share = config.adapter.num_adapted(layers) / layers if layers else config.adapter.layers
    batch = round(mean_batch(config))
    centre = learning_rates.good_rate(hidden, share, batch, config.train.steps)
    new: dict[str, Any] = {}
    low, high = knob.low or 0.0, knob.high or 0.0
    chosen = [float(rate) for rate in knob.first or [] if not isinstance(rate, str)]
    open_ends = [end for end, path in ENDS.items() if {path, RATES} & {*config.left_open}]
    if open_ends:
        around = learning_rates.range_around(centre)
        positive = [float(rate) for rate in found if isinstance(rate, int | float) and rate > 0]
        if positive:
            around = min(positive) / PRIOR_REACH, max(positive) * PRIOR_REACH
            around = tuple(map(learning_rates.two_digits, around))
        if "high" in open_ends:
            beyond = around[1] if around[1] > low or "low" in open_ends else low * WIDTH
            high = max([learning_rates.two_digits(beyond), *chosen])
        if "low" in open_ends:
            below = around[0] if around[0] < high else high / WIDTH
            low = min([learning_rates.two_digits(below), *chosen])
        ends = {"low": low, "high": high}
        new = {end: ends[end] for end in open_ends}
    first = learning_rates.first_rates(centre, low, high)
    if knob.step is None and first and knob.first is None:
        new["first"] = first
    return new


def rank_values(
    config: Config,
    knob: Knob,
    base: BaseModel,
    hidden: int,
    measured: Measured,
    found: list[Any],
) -> dict[str, Any]:
    """The ranks that are searched, and the first trial's."""
    if knob.type != "choice" or config.sweep.search == "grid":
        return {}
    values = [value for value in knob.values or [] if isinstance(value, int)]
    new: dict[str, Any] = {}
    followed = any(
        other.to == knob.path and other.values is not None for other in config.sweep.space.values()
    )
    if RANKS in config.left_open and not followed and hidden:
        per_rank = ranks.weights_per_rank(Path(base.path), config.adapter)
        tokens = supervised_tokens(config, measured)
        if per_rank and tokens:
            values = ranks.worth_searching(tokens, per_rank, hidden)
            also = [rank for rank in [*found, *(knob.first or [])] if isinstance(rank, int)]
            values = sorted({*values, *also})
            new["values"] = values
    if len(values) > 1 and knob.first is None:
        new["first"] = [ranks.middle(values)]
    return new


def supervised_tokens(config: Config, measured: Measured) -> float:
    """How many different supervised tokens a trial that is never stopped learns from."""
    rows = sum(share.answer_tokens or 0 for share in measured.sources.values())
    drawn = config.train.steps * mean_batch(config) * measured.mean_answer
    return min(float(rows), drawn)


def with_findings(config: Config, start: Start, findings: list[Finding]) -> Start:
    """The same with the points of earlier sweeps as the first trials, as far as this one's space
    holds them. Raises ConfigError where it holds none.
    """
    if not findings:
        return start
    space = with_knobs(config, start.knobs).sweep.space
    free = {name: knob for name, knob in space.items() if knob.type not in ("grid", "linked")}
    points: list[dict[str, Value]] = []
    used: list[Finding] = []
    for finding in findings:
        point = {name: finding.params.get(knob.path) for name, knob in free.items()}
        point = {name: value for name, value in point.items() if value is not None}
        if point and all(free[name].holds(value) for name, value in point.items()):
            points.append(point)
            used.append(finding)
    if not points:
        best = findings[0]
        searched = ", ".join(f"{knob.path}={best.params.get(knob.path)}" for knob in free.values())
        priors.refuse(
            f"{config.sweep.prior}: the best of what was found, {best.described()} with "
            f"{searched}, lies outside of sweep.space; widen its ranges, or leave sweep.prior out"
        )
    decided = {name: dict(new) for name, new in start.knobs.items()}
    for name in free:
        values = [point[name] for point in points if name in point]
        if config.sweep.space[name].first is None and len(values) == len(points):
            decided.setdefault(name, {})["first"] = values
    return Start(decided, ", ".join(finding.described() for finding in used))


def notes(config: Config, start: Start) -> list[str]:
    """What is to be said of sweep.prior where this plan cannot look."""
    if config.sweep.prior is None or start.found is not None:
        return []
    when = "where the command runs"
    if config.runs_here:
        when = "once the base model is here"
    return [f"sweep.prior={config.sweep.prior} is looked up {when}"]


def record_of(config: Config, found: str | None) -> dict[str, Any]:
    """What is kept of the knobs as they were planned, and of what they begin with."""
    knobs = {}
    for name, knob in config.sweep.space.items():
        if knob.path in (RATE, RANK) or knob.first is not None:
            values = {key: getattr(knob, key) for key in DECIDED}
            knobs[name] = {key: value for key, value in values.items() if value is not None}
    return {"knobs": knobs, "found": found}
