"""What earlier sweeps on the same rows and the same base model have found, for a new one to start
from (sweep.prior).

A storage's journals are read once: what was taken from them is kept in the new sweep's folder, so
that the same command again starts from the same, whatever has been swept meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.config import BaseModel
from jobs.evaluation import registry
from jobs.files import filesystem
from jobs.files.json_types import JsonObject
from orchestrator.config.run_numbers import is_finalist
from orchestrator.config.settings import AUTO_PRIOR, Config
from orchestrator.errors import ConfigError
from orchestrator.storage.journal import Record
from orchestrator.storage.journal_reader import History
from orchestrator.storage.paths import storage_folder

MOST_POINTS = 3
"""So many of the best points become the first trials."""
MOST_NAMED = 8


@dataclass(frozen=True)
class Finding:
    """One trial of an earlier sweep."""

    sweep: str
    trial: int
    score: float
    params: Mapping[str, Any]
    """Its settings by dotted path."""
    rank: tuple[float, ...]
    """What findings are compared by, higher being better."""

    def described(self) -> str:
        """The trial and its score, in a few words."""
        return f"trial {self.trial} of {self.sweep} ({self.score:.4g})"


def find(config: Config, name: str, base: BaseModel, digests: Mapping[str, str]) -> list[Finding]:
    """The best trials of the earlier sweeps that sweep.prior means, the best first, no two with the
    same values of what is searched. Raises ConfigError where there is nothing to start from.
    """
    asked = config.sweep.prior or AUTO_PRIOR
    if filesystem.is_uri(config.storage):
        refuse(
            f"{asked}: earlier sweeps are read from a folder, and storage={config.storage} is an "
            "object store; leave it out, or set sweep.space.NAME.first"
        )
    folder = storage_folder(config.storage) / "sweeps"
    names = sorted(file.parent.name for file in folder.glob("*/journal.jsonl"))
    others = [other for other in names if other != name]
    if asked != AUTO_PRIOR and asked not in others:
        refuse(no_such(config, asked, name, others))
    chosen = others if asked == AUTO_PRIOR else [asked]
    findings: list[Finding] = []
    reasons = []
    for other in chosen:
        events = History(folder / other)
        added = events.update()
        reason = why_other(added, base, digests)
        scored = [] if reason else scored_trials(config, other, events.records, added)
        findings += scored
        if not scored:
            reasons.append(reason or f"none of its trials has a {config.sweep.metric}")
    if not findings:
        refuse(nothing(config, asked, reasons))
    searched = [knob.path for knob in config.sweep.space.values()]
    best: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda each: each.rank, reverse=True):
        best.setdefault(repr([finding.params.get(path) for path in searched]), finding)
    return list(best.values())


def refuse(text: str) -> None:
    """Raise ConfigError about sweep.prior."""
    raise ConfigError([("sweep.prior", text)])


def no_such(config: Config, asked: str, name: str, others: list[str]) -> str:
    """That a sweep is not there to start from."""
    if asked == name:
        return f"{asked} is this very sweep; the same command goes on with it without sweep.prior"
    listed = ", ".join(others[:MOST_NAMED]) or "no sweep"
    more = ""
    if len(others) > MOST_NAMED:
        more = f" and {len(others) - MOST_NAMED} more"
    return f"{asked} is no sweep of storage={config.storage}, which holds {listed}{more}"


def nothing(config: Config, asked: str, reasons: list[str]) -> str:
    """That there is nothing to start from, and why."""
    if asked != AUTO_PRIOR:
        return f"{asked} has found nothing to start from: {reasons[0]}; leave sweep.prior out"
    if not reasons:
        return f"storage={config.storage} holds no earlier sweep to start from; leave it out"
    return (
        f"none of the {len(reasons)} sweeps of storage={config.storage} is on these rows and this "
        f"base model and has a {config.sweep.metric}; leave it out"
    )


def why_other(events: list[JsonObject], base: BaseModel, digests: Mapping[str, str]) -> str | None:
    """Why a sweep says nothing about these rows and this base model; None where it does."""
    starts = [event for event in events if event["kind"] == "sweep"]
    if not starts:
        return "it has not begun"
    tags, datasets = starts[-1].get("tags") or {}, starts[-1].get("datasets") or []
    revision = str(tags.get("base", "")).rpartition("@")[2]
    if revision != base.revision[:12]:
        return f"its base model is {tags.get('base', 'unknown')}"
    seen = {str(entry.get("digest")) for entry in datasets if entry.get("context") != "test"}
    mine = {digest for name, digest in digests.items() if name != "test"}
    return None if seen == mine else "its training or validation rows are others"


def scored_trials(
    config: Config, sweep: str, records: Mapping[int, Record], events: list[JsonObject]
) -> list[Finding]:
    """The trials that have a score in this sweep's metric, with their settings."""
    settings: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["kind"] == "trial":
            settings[event["trial"]] = {**(event.get("params") or {}), **event["point"]}
    findings = []
    for index, record in sorted(records.items()):
        best = record.best(config.sweep.metric, config.sweep.maximise)
        if is_finalist(index) or record.state == "failed" or best is None:
            continue
        step, score = best
        report = record.reports[step]
        loss = report.get(registry.VALID_LOSS, 0.0)
        rank = (
            report.get(registry.NUM_ANSWERED, 0.0),
            score if config.sweep.maximise else -score,
            -loss if loss == loss else -math.inf,
            -index,
        )
        findings.append(Finding(sweep, index, score, settings.get(index, {}), rank))
    return findings
