"""Whether an exported file keeps the limits of a device, and which of several is the one for it.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.evaluation import registry
from orchestrator.config.device_settings import Profile
from orchestrator.config.registry_settings import Registry
from orchestrator.evaluation.promotion import Candidate, Scores, select

Report = dict[str, Any]
"""What export.json says of a file."""
TOLERANCE = 1e-9


@dataclass(frozen=True)
class MeasuredFile:
    """An exported file and what was measured of it."""

    format: str
    report: Report
    scores: Scores | None
    """By the metric of its report, row by row where that says something of a row; None where it
    has no score.
    """
    by: str | None = None
    """Name of the metric of `scores`; None: the report's."""

    @property
    def metric(self) -> str:
        """Name of the metric that the file is scored by."""
        if self.by is not None:
            return self.by
        return str((self.report.get("scores") or {}).get("metric") or registry.EXACT_MATCH)


def broken(report: Report, profile: Profile) -> list[str]:
    """The limits that a file does not keep, in words; what was not measured keeps none."""
    limits, where = profile.limits, profile.path
    costs = report.get("costs") or {}
    told = []
    for name, key, words in (
        ("max_size_mb", "size_mb", "MB on disk"),
        ("max_memory_mb", "peak_memory_mb", "MB of memory"),
    ):
        most = getattr(limits, name)
        if most is None:
            continue
        if key not in costs:
            told.append(f"its {words} were not measured, and {where}.{name} is {most:g}")
        elif costs[key] > most:
            told.append(f"its {costs[key]:,.1f} {words} are more than {where}.{name}={most:g}")
    least = limits.min_tokens_per_second
    if least is not None:
        speed = tokens_per_second(report, limits.threads)
        if speed is None:
            told.append(f"its speed was not measured, and {where}.min_tokens_per_second={least:g}")
        elif speed < least:
            threads = "" if limits.threads is None else f" on {limits.threads} threads"
            told.append(
                f"its {speed:.1f} tokens/s{threads} are fewer than "
                f"{where}.min_tokens_per_second={least:g}"
            )
    if limits.max_drop is not None:
        told += too_far_down(report, limits.max_drop, where)
    return told


def tokens_per_second(report: Report, threads: int | None) -> float | None:
    """How fast a file answers, with the best number of threads or with this one."""
    measured = (report.get("costs") or {}).get("threads") or {}
    speeds = {int(count): float(speed["tokens_per_second"]) for count, speed in measured.items()}
    if threads is not None:
        return speeds.get(threads)
    return max(speeds.values(), default=None)


def drop(report: Report) -> float | None:
    """By how much a file's score is worse than the trained model's on the same rows."""
    scores = report.get("scores")
    if not scores:
        return None
    sign = -1.0 if registry.metric_of(scores["metric"]).maximise else 1.0
    return sign * float(scores["difference"])


def too_far_down(report: Report, most: float, where: str) -> list[str]:
    """What is said of a file whose score drops too far."""
    lost = drop(report)
    if lost is None:
        return [f"it has no score, and {where}.max_drop is {most:g}"]
    if lost <= most + TOLERANCE:
        return []
    scores = report["scores"]
    return [
        f"its {scores['metric']} of {scores['value']:.4g} is {lost:.4g} worse than the trained "
        f"model's, more than {where}.max_drop={most:g}"
    ]


def only_drop(report: Report, profile: Profile) -> bool:
    """Whether another training may keep the limits that this file breaks: all of them are kept but
    the drop.
    """
    lost = (
        []
        if profile.limits.max_drop is None
        else too_far_down(report, profile.limits.max_drop, profile.path)
    )
    return bool(lost) and broken(report, profile) == lost


def candidate_of(file: MeasuredFile) -> Candidate:
    """A file in the promotion rule's terms. Raises ValueError for one without a score."""
    if file.scores is None:
        raise ValueError(f"{file.format} has no score")
    costs = file.report.get("costs") or {}
    return Candidate(file.format, file.scores, float(costs.get("size_mb", 0.0)))


def best_within(
    files: Sequence[MeasuredFile], profile: Profile, rule: Registry
) -> MeasuredFile | None:
    """The file for a device: of those within its limits the smallest that the rows cannot tell from
    the best; None where none is within them.
    """
    kept = [file for file in files if file.scores is not None and not broken(file.report, profile)]
    if not kept:
        return None
    candidates = [candidate_of(file) for file in kept]
    maximise = registry.metric_of(kept[0].metric).maximise
    chosen = select(candidates, [], rule, maximise).chosen
    return next(file for file, one in zip(kept, candidates, strict=True) if one is chosen)
