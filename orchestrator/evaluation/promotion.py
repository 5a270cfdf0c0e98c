"""May this candidate replace the champion? A pure rule; `tracking` carries the decision out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from jobs.evaluation.comparison import compare, compare_apart, false_discoveries_held
from orchestrator.config.settings import Registry


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

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g}..{self.high:.4g}, {self.rows:,} rows)"


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
        beaten, words = against(candidate.scores, rival, rule, higher_is_better, level)
        (won if beaten else lost).append((rival, words))
    remarks = [rival.remark for rival in asked if rival.remark]
    ends = "".join(f"; {remark}" for remark in remarks)
    if lost or limits:
        said = [words for _, words in lost] + limits
        return Decision(
            False,
            f"{'; '.join(said)}{ends}",
            tuple(dict.fromkeys(rival.kind for rival, _ in lost)),
        )
    if rule.forbid_slice_regression and (
        worse := worse_slices(candidate, rivals, rule, higher_is_better)
    ):
        return Decision(False, f"{worse}{ends}", ("slices",))
    if not won:
        return Decision(True, first_reason(candidate, rivals, rule))
    return Decision(True, f"{'; '.join(words for _, words in won)}{ends}")


def first_reason(candidate: Candidate, rivals: Sequence[Rival], rule: Registry) -> str:
    """Why a candidate that had nothing to beat takes the alias."""
    named = ", ".join(rule.beat)
    if any(rival.kind == "champion" for rival in rivals):
        return f"registry.beat=[{named}] does not ask it to beat the champion"
    return f"there is no champion yet; the candidate scores {candidate.scores}"


def broken_limits(candidate: Candidate, rule: Registry, higher_is_better: bool) -> list[str]:
    """The limits that a candidate does not keep, in words."""
    said = []
    value = candidate.scores.value
    if rule.floor is not None and not at_least(value, rule.floor, higher_is_better):
        said.append(f"{candidate.scores} does not reach registry.floor={rule.floor:g}")
    if rule.max_megabytes is not None and candidate.megabytes > rule.max_megabytes:
        said.append(
            f"its {candidate.megabytes:,.0f} MB of weights are more than "
            f"registry.max_megabytes={rule.max_megabytes:g}"
        )
    if rule.max_seconds is not None and candidate.seconds > rule.max_seconds:
        said.append(
            f"its {candidate.seconds:.3g} s for a row are more than "
            f"registry.max_seconds={rule.max_seconds:g}"
        )
    return said


def against(
    scores: Scores, rival: Rival, rule: Registry, higher_is_better: bool, level: float
) -> tuple[bool, str]:
    """Whether a candidate beats one rival, and how that is told."""
    other = rival.scores
    if math.isnan(other.value):
        return True, f"{scores} beats {rival.name}, which has no score"
    if scores.value == other.value:
        keeps = "; a tie keeps the champion" if rival.kind == "champion" else ""
        return False, f"{scores} only equals {rival.name}'s {other}{keeps}"
    gain = scores.value - other.value
    gain = gain if higher_is_better else -gain
    if gain <= 0:
        return False, f"{scores} does not beat {rival.name}'s {other}"
    if gain <= rule.margin:
        return False, (
            f"{scores} does not beat {rival.name}'s {other} by more than "
            f"registry.margin={rule.margin:g}"
        )
    p_value = chance(scores, other, higher_is_better)
    how = "on the same rows" if paired(scores, other) else "row by row is not known"
    if p_value > level:
        return False, (
            f"{scores} does not beat {rival.name}'s {other} by more than chance may give "
            f"(p={p_value:.2g} {how}, registry.error_rate={rule.error_rate:g})"
        )
    return True, f"{scores} beats {rival.name}'s {other} (p={p_value:.2g} {how})"


def paired(scores: Scores, other: Scores) -> bool:
    """Whether two models can be compared row by row."""
    return bool(scores.per_row) and len(scores.per_row) == len(other.per_row)


def chance(scores: Scores, other: Scores, higher_is_better: bool) -> float:
    """One-sided p-value of one model against another."""
    if paired(scores, other):
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
    of its own (Berger, 1982).
    """
    if len(compared) < 2 or not asked:
        return rule.error_rate
    weakest = [
        max(chance(one.scores, rival.scores, higher_is_better) for rival in asked)
        for one in compared
    ]
    held = false_discoveries_held(weakest)
    significant = [p for p, q in zip(weakest, held, strict=True) if q <= rule.error_rate]
    return max(significant, default=0.0)


def worse_slices(
    candidate: Candidate, rivals: Sequence[Rival], rule: Registry, higher_is_better: bool
) -> str | None:
    """On which slices the candidate does worse than the champion by more than chance may give.
    Each slice is looked at by itself, without a correction for their number: that errs on the
    champion's side.
    """
    champion = next((rival for rival in rivals if rival.kind == "champion"), None)
    if champion is None or not paired(candidate.scores, champion.scores):
        return None
    said = []
    for name, rows in sorted(candidate.slices.items()):
        now = [candidate.scores.per_row[row] for row in rows]
        before = [champion.scores.per_row[row] for row in rows]
        result = compare(before, now, higher_is_better)
        if result.p_value <= rule.error_rate:
            said.append(
                f"{name} ({mean(now):.4g} after {mean(before):.4g}, {len(rows):,} rows, "
                f"p={result.p_value:.2g})"
            )
    if not said:
        return None
    return (
        f"it does worse than the champion on {', '.join(said)}, and "
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
        lambda one, other: other if better(other, one, higher_is_better) else one, candidates
    )
    others = [one for one in candidates if one is not best and not math.isnan(one.scores.value)]
    p_values = [chance(best.scores, one.scores, higher_is_better) for one in others]
    held = false_discoveries_held(p_values)
    level = rule.error_rate
    tied = [best, *(one for one, q in zip(others, held, strict=True) if q > level)]
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
