"""The winner of a sweep as files that ship: each is made, checked, scored and told of its version,
and for each device the best one within its limits asks for that device's alias.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.evaluation import registry
from jobs.files.json_types import JsonObject
from orchestrator.config.device_settings import Profile, profiles_of
from orchestrator.config.registry_settings import Registry
from orchestrator.config.settings import Config
from orchestrator.evaluation import device_limits, shipped_version
from orchestrator.evaluation.device_limits import MeasuredFile
from orchestrator.evaluation.promotion import Decision, Rival, Scores, decide
from orchestrator.evaluation.verdict import champion_scores
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.model_versions import Version

REPORT = "export.json"
ANSWERS = "predictions.jsonl"
MARK = "device"
"""Beginning of a version's tags that say which of its files is for a device."""


@dataclass(frozen=True)
class Maker:
    """What makes and measures files of a version."""

    config: Config
    base: BaseModel
    digest: str
    """Of the test rows."""
    say: Callable[[str], None]

    def files(self, folder: Path, version: Version, formats: Sequence[str]) -> list[JsonObject]:
        """One record for each format: its report, or under `refused` why it could not be made."""
        return [self.file(folder, version, form) for form in formats]

    def file(self, folder: Path, version: Version, form: str) -> JsonObject:
        """One file; one that an earlier run of the command has made of the same version, with the
        same settings, is taken as it is.
        """
        from jobs.export.formats import FORMATS
        from jobs.export.shipment import Shipment, ShipmentSettings, version_digest

        numbered = f"{version.name}-{version.version}"
        target = storage_folder(self.config.storage) / "exports" / numbered / form
        named = [profile.limits.threads for profile in profiles_of(self.config.device)]
        threads = sorted({*self.config.export.threads, *(n for n in named if n is not None)})
        made_by: JsonObject = {
            "rows": self.config.export.rows,
            "threads": threads,
            "confidence": self.config.job.confidence,
        }
        kept = read_report(target)
        same = (
            kept.get("version_digest") == version_digest(folder) and kept.get("made_by") == made_by
        )
        # job=export may have made it with export.score=false.
        if same and kept.get("version") == version.uri and kept.get("scores"):
            return kept | {"folder": str(target)}
        settings = ShipmentSettings(
            uri=version.uri,
            name=version.name,
            rows=self.config.export.rows,
            threads=tuple(threads),
            confidence=self.config.job.confidence,
            made_by=made_by,
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return Shipment(folder, self.base, FORMATS[form], settings, self.say).run(target)
        except (ValueError, RuntimeError, MemoryError, OSError) as error:
            return {"format": form, "refused": str(error) or type(error).__name__}

    def measured(self, records: Sequence[JsonObject]) -> list[MeasuredFile]:
        """The files that were made, with their scores."""
        return [
            MeasuredFile(str(record["format"]), record, scores_of(record, self.digest))
            for record in records
            if "refused" not in record
        ]


def read_report(target: Path) -> JsonObject:
    """What an export's folder says of itself; nothing where it is none, or its file is gone."""
    try:
        report = dict(json.loads((target / REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    return report if (target / str(report.get("file"))).exists() else {}


def some_rows(digest: str, count: int) -> str:
    """What tells a part of the test rows from all of them."""
    return f"{digest}/{count}"


def scores_of(report: JsonObject, digest: str) -> Scores | None:
    """A file's scores in the promotion rule's terms; None where it has none."""
    scores = report.get("scores")
    if not scores:
        return None
    rows = (report.get("made_by") or {}).get("rows")
    return Scores(
        scores["value"],
        scores["low"],
        scores["high"],
        scores["rows"],
        digest if rows is None else some_rows(digest, scores["rows"]),
        row_scores(Path(str(report["folder"])), scores["rows"]),
    )


def row_scores(folder: Path, count: int) -> tuple[float, ...]:
    """The score of each row, as they stand beside a file; empty where they do not."""
    try:
        lines = (folder / ANSWERS).read_text(encoding="utf-8").splitlines()
        values = tuple(float(json.loads(line)["shipped_score"]) for line in lines)
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return values if len(values) == count else ()


@dataclass(frozen=True)
class Contest:
    """What a file has to beat for a device's alias."""

    store: MlflowStore
    rule: Registry
    rivals: Sequence[Rival]
    """The base and the baselines, by the sweep's metric."""
    metric: str
    """The sweep's metric, without a split."""

    def decide(self, profile: Profile, file: MeasuredFile, version: Version) -> Decision:
        """Whether a device's alias moves to a file of a version. Who has the alias is a rival as
        far as its file is within the limits, and was scored on the same rows.
        """
        candidate = device_limits.candidate_of(file)
        comparable = file.metric == self.metric
        rivals = [
            rival
            for rival in self.rivals
            if comparable and rival.scores.digest == candidate.scores.digest
        ]
        holder = self.store.aliased(version.name, profile.alias)
        if holder is not None and holder.version == version.version:
            return Decision(True, f"{file.format} is the file for it")
        if holder is not None:
            form, scores = self.scores_of_holder(holder, profile, file)
            if form is not None and scores is None:
                return Decision(
                    False,
                    f"{holder.uri} has the alias {profile.alias}, and its {form} was scored on "
                    "other test rows, or by another metric; it keeps the alias, which MLflow's "
                    f"page of {version.uri} can move",
                )
            if scores is not None:
                rivals.append(Rival("champion", f"{form} of {holder.uri}", scores))
        maximise = registry.metric_of(file.metric).maximise
        return decide(candidate, rivals, self.rule, maximise)

    def scores_of_holder(
        self, holder: Version, profile: Profile, file: MeasuredFile
    ) -> tuple[str | None, Scores | None]:
        """The format by which a version holds a device's alias, and its scores where they compare;
        no format where its file is not within the limits of now.
        """
        mark = read_mark(holder.tags.get(f"{MARK}.{profile.label}"))
        form = mark.get("format")
        shipped = read_mark(holder.tags.get(f"shipped.{form}"))
        if form is None or not shipped or device_limits.broken(as_report(shipped, mark), profile):
            return None, None
        assert file.scores is not None
        metric = told_as(file.metric)
        tags = {
            "test.digest": mark.get("rows", ""),
            "test.rows": str(int(shipped.get("rows", 0))),
            **{
                f"{metric}{end}": str(shipped.get(f"{metric}{end}", shipped.get(metric)))
                for end in ("", "_low", "_high")
            },
        }
        return str(form), champion_scores(tags, file.scores.digest, metric, None)


def told_as(metric: str) -> str:
    """A metric's name in the tag of a file."""
    return metric.replace(":", ".")


def read_mark(text: str | None) -> dict[str, Any]:
    """What a tag holds; nothing where it was edited to something else."""
    try:
        return dict(json.loads(text or "{}"))
    except (ValueError, TypeError):
        return {}


def as_report(shipped: dict[str, Any], mark: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a version's tag in the form of a report, so far as limits look at them."""
    ending = "_threads"
    begin = "tokens_per_second_"
    threads = {
        name.removeprefix(begin).removesuffix(ending): {"tokens_per_second": value}
        for name, value in shipped.items()
        if name.startswith(begin)
    }
    costs = {key: shipped[key] for key in ("size_mb", "peak_memory_mb") if key in shipped}
    report: dict[str, Any] = {"costs": costs | {"threads": threads}}
    metric = mark.get("metric")
    if isinstance(metric, str) and told_as(metric) in shipped and "difference" in shipped:
        report["scores"] = {
            "metric": metric,
            "value": shipped[told_as(metric)],
            "difference": shipped["difference"],
        }
    return report


def place(
    profile: Profile, files: Sequence[MeasuredFile], version: Version, contest: Contest
) -> JsonObject:
    """Give a device's alias to a version if the best of its files deserves it; returns what the
    result tells of it.
    """
    told: JsonObject = {
        "device": profile.label,
        "alias": profile.alias,
        "limits": profile.limits.asked,
    }
    chosen = device_limits.best_within(files, profile, contest.rule)
    if chosen is None or chosen.scores is None:
        holder = contest.store.aliased(version.name, profile.alias)
        if profile.name is not None and holder is not None and holder.version == version.version:
            contest.store.drop_alias(version.name, profile.alias)
        return told | {"format": None, "holds": False, "reason": why_none(profile, files)}
    decision = contest.decide(profile, chosen, version)
    if decision.promote:
        mark = {
            "format": chosen.format,
            "metric": chosen.report["scores"]["metric"],
            "rows": chosen.scores.digest,
            "limits": profile.limits.asked,
        }
        contest.store.mark(
            version.name, version.version, {f"{MARK}.{profile.label}": json.dumps(mark)}
        )
        contest.store.set_alias(version.name, profile.alias, version.version)
    return told | {
        "format": chosen.format,
        "holds": decision.promote,
        "model": version.uri,
        "reason": decision.reason,
        "reasons": list(decision.reasons),
    }


def why_none(profile: Profile, files: Sequence[MeasuredFile]) -> str:
    """Why no file is within a device's limits."""
    reasons = []
    for file in files:
        missed = device_limits.broken(file.report, profile) or ["it has no score"]
        reasons.append(f"{file.format}: {'; '.join(missed)}")
    return ". ".join(reasons) or "no file was made"


def record(store: MlflowStore, version: Version, files: Sequence[MeasuredFile]) -> None:
    """Tell a version's run, tags and description what its files score and cost."""
    for file in files:
        shipped_version.record(store, version, file.report)
