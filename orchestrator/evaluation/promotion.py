"""May this candidate replace the champion? A pure rule; `tracking` carries the decision out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from jobs.evaluation.comparison import compare, compare_apart, false_discoveries_held
from orchestrator.config.settings import Registry
from orchestrator.output.console import plural


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
    per_row: tuple[float, ...] = ()
    """The score of each row, in order; empty where they were not written down."""
    drawn: tuple[float, ...] = ()
    """The score of samples of the rows, by a metric that is no mean over them; see TestScores."""

    def __str__(self) -> str:
        rows = plural(self.rows, "row")
        return f"{self.value:.4g} ({self.low:.4g}..{self.high:.4g}, {rows})"


@dataclass(frozen=True)
class Candidate:
    """A model that asks for the champion's alias."""

    name: str
    scores: Scores
    megabytes: float = 0.0
    """Of all weights that serving it loads."""
    seconds: float = 0.0
    """Mean time for one test row while it was judged."""
    slices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Test rows by slice, such as `label=fraud`, as positions."""


@dataclass(frozen=True)
class Rival:
    """What a candidate is compared with."""

    kind: str
    """base, baselines or champion: the name by which registry.beat asks for it."""
    name: str
    """In words, with its article: "the untouched base model"."""
    scores: Scores
    remark: str = ""
    """What a reason says at its end, such as that the champion was chosen by other rows."""


@dataclass(frozen=True)
class Decision:
    """Whether the champion's alias moves to the candidate, and why."""

    promote: bool
    reason: str
    lost_to: tuple[str, ...] = ()
    """The kinds of rivals that were not beaten."""
    reasons: tuple[str, ...] = ()
    """The same as `reason` in short lines, for a screen; none where that is one already."""


@dataclass(frozen=True)
class Selection:
    """Which of several candidates that met the test set asks for the alias."""

    chosen: Candidate
    decision: Decision
    tied: tuple[str, ...]
    """Names of the candidates that the test rows cannot tell from the best, the smallest first."""
    compared: int


def decide(
    candidate: Candidate,
    rivals: Sequence[Rival],
    rule: Registry,
    higher_is_better: bool = True,
    compared: Sequence[Candidate] = (),
) -> Decision:
    """Say whether `candidate` may take the champion's alias.

    It has to beat every rival of a kind in `rule.beat` by more than `rule.margin`, by a difference
    that a model no better would show in at most `rule.error_rate` of all cases; to reach
    `rule.floor`; to stay below the limits of size and time; and, where that is forbidden, to lose
    on no slice against the champion. A tie keeps the champion: moving an alias restarts servers, so
    it must buy something. `compared` are all candidates that met the test set, this one among them:
    the share of false discoveries is held over all of them. Raises ValueError when two were
    measured on different test sets.
    """
    for rival in rivals:
        if rival.scores.digest != candidate.scores.digest:
            raise ValueError(
                "scores on different test sets cannot be compared: candidate on "
                f"{candidate.scores.digest}, {rival.kind} on {rival.scores.digest}; score the "
                f"{rival.kind} again on the candidate's test set"
            )
    if math.isnan(candidate.scores.value):
        return Decision(False, "the candidate's score is not a number")
    limits = broken_limits(candidate, rule, higher_is_better)
    asked = [rival for rival in rivals if rival.kind in rule.beat]
    level = adjusted_level(candidate, compared, asked, rule, higher_is_better)
    lost, won = [], []
    for rival in asked:
        met = against(candidate.scores, rival, rule, higher_is_better, level)
        (won if met.beaten else lost).append(met)
    remarks = [rival.remark for rival in asked if rival.remark]
    ends = "".join(f"; {remark}" for remark in remarks)
    if lost or limits:
        objections = [met.words for met in lost] + limits
        return Decision(
            False,
            f"{'; '.join(objections)}{ends}",
            tuple(dict.fromkeys(met.rival.kind for met in lost)),
            (*(met.short for met in lost), *limits, *remarks),
        )
    if rule.forbid_slice_regression and (
        worse := worse_slices(candidate, rivals, rule, higher_is_better)
    ):
        return Decision(False, f"{worse}{ends}", ("slices",))
    if not won:
        return Decision(True, first_reason(candidate, rivals, rule))
    won_comparisons = "; ".join(met.words for met in won)
    return Decision(True, f"{won_comparisons}{ends}", (), (*(met.short for met in won), *remarks))


def first_reason(candidate: Candidate, rivals: Sequence[Rival], rule: Registry) -> str:
    """Why a candidate that had nothing to beat takes the alias."""
    named = ", ".join(rule.beat)
    if any(rival.kind == "champion" for rival in rivals):
        return f"registry.beat=[{named}] does not ask it to beat the champion"
    return f"there is no champion yet; the candidate scores {candidate.scores}"


def broken_limits(candidate: Candidate, rule: Registry, higher_is_better: bool) -> list[str]:
    """The limits that a candidate does not keep, in words."""
    broken = []
    value = candidate.scores.value
    if rule.floor is not None and not at_least(value, rule.floor, higher_is_better):
        broken.append(f"its {value:.4g} does not reach registry.floor={rule.floor:g}")
    if rule.max_megabytes is not None and candidate.megabytes > rule.max_megabytes:
        broken.append(
            f"its {candidate.megabytes:,.0f} MB of weights are more than "
            f"registry.max_megabytes={rule.max_megabytes:g}"
        )
    if rule.max_seconds is not None and candidate.seconds > rule.max_seconds:
        broken.append(
            f"its {candidate.seconds:.3g} s for a row are more than "
            f"registry.max_seconds={rule.max_seconds:g}"
        )
    return broken


@dataclass(frozen=True)
class Comparison:
    """What came of a candidate's meeting with one rival."""

    rival: Rival
    beaten: bool
    words: str
    short: str
    """The same without intervals and numbers of rows."""


def against(
    scores: Scores, rival: Rival, rule: Registry, higher_is_better: bool, level: float
) -> Comparison:
    """Whether a candidate beats one rival, and how that is told."""
    rival_scores = rival.scores
    values = f"{scores.value:.4g} against {rival_scores.value:.4g}"

    def lost(words: str, short: str) -> Comparison:
        return Comparison(rival, False, f"{scores} {words}", short)

    if math.isnan(rival_scores.value):
        words = f"beats {rival.name}, which has no score"
        return Comparison(rival, True, f"{scores} {words}", f"it {words}")
    if scores.value == rival_scores.value:
        keeps = "; a tie keeps the champion" if rival.kind == "champion" else ""
        return lost(
            f"only equals {rival.name}'s {rival_scores}{keeps}",
            f"it only equals {rival.name}: {values}{keeps}",
        )
    gain = scores.value - rival_scores.value
    gain = gain if higher_is_better else -gain
    if gain <= 0:
        return lost(
            f"does not beat {rival.name}'s {rival_scores}",
            f"it does not beat {rival.name}: {values}",
        )
    if gain <= rule.margin:
        margin = f"by more than registry.margin={rule.margin:g}"
        return lost(
            f"does not beat {rival.name}'s {rival_scores} {margin}",
            f"it does not beat {rival.name} {margin}: {values}",
        )
    p_value = chance(scores, rival_scores, higher_is_better)
    alike = sampled(scores, rival_scores) or (paired(scores, rival_scores) and not scores.drawn)
    how = "on the same rows" if alike else "row by row is not known"
    if p_value > level:
        rate = f"registry.error_rate={rule.error_rate:g}"
        if level < rule.error_rate:
            rate += f", over all candidates p up to {level:.2g}"
        return lost(
            f"does not beat {rival.name}'s {rival_scores} by more than chance may give "
            f"(p={p_value:.2g} {how}, {rate})",
            f"it does not beat {rival.name} by more than chance may give: {values} "
            f"(p={p_value:.2g}, {rate})",
        )
    return Comparison(
        rival,
        True,
        f"{scores} beats {rival.name}'s {rival_scores} (p={p_value:.2g} {how})",
        f"it beats {rival.name}: {values} (p={p_value:.2g})",
    )


def paired(scores: Scores, other: Scores) -> bool:
    """Whether two models can be compared row by row."""
    return bool(scores.per_row) and len(scores.per_row) == len(other.per_row)


def sampled(scores: Scores, other: Scores) -> bool:
    """Whether two models can be compared on samples of the rows, by a metric that is no mean."""
    return bool(scores.drawn) and len(scores.drawn) == len(other.drawn)


def chance(scores: Scores, other: Scores, higher_is_better: bool) -> float:
    """One-sided p-value of one model against another."""
    if sampled(scores, other):
        sign = 1 if higher_is_better else -1
        pairs = zip(scores.drawn, other.drawn, strict=True)
        no_better = sum(sign * (one - another) <= 0 for one, another in pairs)
        return (1 + no_better) / (1 + len(scores.drawn))
    if paired(scores, other) and not scores.drawn:
        return compare(scores.per_row, other.per_row, higher_is_better).p_value
    return compare_apart(
        scores.value,
        (scores.low, scores.high),
        other.value,
        (other.low, other.high),
        higher_is_better,
    )


def adjusted_level(
    candidate: Candidate,
    compared: Sequence[Candidate],
    asked: Sequence[Rival],
    rule: Registry,
    higher_is_better: bool,
) -> float:
    """The p-value up to which a candidate's gain counts, where several candidates met the same test
    rows: the error rate itself for one, less for more (Benjamini and Hochberg).

    A candidate must beat all its rivals, so its weakest comparison counts and needs no correction
    of its own (Berger, 1982). The level is at least the error rate's equal part for each candidate:
    a comparison below that holds whatever the others did, though its candidate may lose elsewhere.
    """
    if len(compared) < 2 or not asked:
        return rule.error_rate
    weakest = [
        max(chance(one.scores, rival.scores, higher_is_better) for rival in asked)
        for one in compared
    ]
    q_values = false_discoveries_held(weakest)
    significant = [p for p, q in zip(weakest, q_values, strict=True) if q <= rule.error_rate]
    return max([rule.error_rate / len(compared), *significant])


def worse_slices(
    candidate: Candidate, rivals: Sequence[Rival], rule: Registry, higher_is_better: bool
) -> str | None:
    """On which slices the candidate does worse than the champion by more than chance may give, or
    why that cannot be told. Each slice is looked at by itself, without a correction for their
    number: that errs on the champion's side.
    """
    champion = next((rival for rival in rivals if rival.kind == "champion"), None)
    if champion is None:
        return None
    if not paired(candidate.scores, champion.scores):
        return (
            "registry.forbid_slice_regression=true needs a score for each row of it and of the "
            "champion, which the metric or the champion's files do not give: choose by another "
            "sweep.metric, or leave the setting out"
        )
    worse = []
    for name, rows in sorted(candidate.slices.items()):
        now = [candidate.scores.per_row[row] for row in rows]
        before = [champion.scores.per_row[row] for row in rows]
        result = compare(before, now, higher_is_better)
        if result.p_value <= rule.error_rate:
            worse.append(
                f"{name} ({mean(now):.4g} after {mean(before):.4g}, {len(rows):,} rows, "
                f"p={result.p_value:.2g})"
            )
    if not worse:
        return None
    return (
        f"it does worse than the champion on {', '.join(worse)}, and "
        "registry.forbid_slice_regression=true"
    )


def select(
    candidates: Sequence[Candidate],
    rivals: Sequence[Rival],
    rule: Registry,
    higher_is_better: bool = True,
) -> Selection:
    """Of several candidates the one that asks for the alias: the smallest of those that the test
    rows cannot tell from the best. Raises ValueError without any.
    """
    if not candidates:
        raise ValueError("there is no candidate to choose from")
    best = reduce(
        lambda leader, one: one if better(one, leader, higher_is_better) else leader, candidates
    )
    runners_up = [one for one in candidates if one is not best and not math.isnan(one.scores.value)]
    p_values = [chance(best.scores, one.scores, higher_is_better) for one in runners_up]
    q_values = false_discoveries_held(p_values)
    level = rule.error_rate
    tied = [best, *(one for one, q in zip(runners_up, q_values, strict=True) if q > level)]
    tied.sort(key=lambda one: (one.megabytes, one is not best))
    chosen = tied[0]
    decision = decide(chosen, rivals, rule, higher_is_better, candidates)
    return Selection(chosen, decision, tuple(one.name for one in tied), len(candidates))


def better(one: Candidate, other: Candidate, higher_is_better: bool) -> bool:
    """Whether one candidate's score is better; a score that is no number never is."""
    value, than = one.scores.value, other.scores.value
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value > than if higher_is_better else value < than


def at_least(value: float, floor: float, higher_is_better: bool) -> bool:
    """Whether a value reaches a floor, which of a loss is a ceiling."""
    return value >= floor if higher_is_better else value <= floor


def mean(values: Sequence[float]) -> float:
    """The mean of some scores."""
    return sum(values) / len(values)
