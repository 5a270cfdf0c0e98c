"""The files of several bases beside each other: the front, and which of them each device gets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jobs.evaluation import registry
from jobs.files.json_types import JsonObject
from orchestrator.config.device_settings import Device, Profile, profiles_of
from orchestrator.evaluation import device_limits, pareto_front, shipped_files
from orchestrator.evaluation.champion_lookup import store_address
from orchestrator.evaluation.pareto_front import FrontFile
from orchestrator.evaluation.promotion import Rival, Scores
from orchestrator.evaluation.shipped_files import Contest
from orchestrator.output.best_lines import BASELINES
from orchestrator.output.sweep_result import SweepResult
from orchestrator.plan.planner import Plan
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking import mlflow_store
from orchestrator.tracking.model_versions import Version

FRONT = "pareto.front"
"""Tag of a version that has a file on a front."""


def name_of(sweep: str, sweeps: Sequence[str]) -> str:
    """What the comparison of these sweeps is called: the same command finds it again."""
    digest = hashlib.sha256(json.dumps(sorted(sweeps)).encode()).hexdigest()
    return f"{sweep}-{digest[:6]}"


def compare(
    plan: Plan,
    device: Device,
    files: Sequence[FrontFile],
    results: Sequence[SweepResult],
    name: str,
) -> JsonObject:
    """The front and the devices, as the result keeps them; aliases are moved."""
    config = plan.config
    metric = registry.name_of(config.sweep.metric)
    rivals = rivals_of(results, plan, rows_of(files, plan))
    if not pareto_front.by_answers(metric):
        rivals = []  # what needs no training has no bits per byte in the results
        metric = registry.BITS_PER_BYTE
        files = [
            FrontFile(entry.base, entry.model, pareto_front.in_bits(entry.file)) for entry in files
        ]
    maximise = registry.metric_of(metric).maximise
    on_front = pareto_front.front(files, maximise)
    store = mlflow_store.connect(
        store_address(config),
        config.tracking.experiment,
        storage_folder(config.storage) / "artifacts",
    )
    versions = {uri: version_of(store, uri) for uri in {entry.model for entry in files}}
    for index in on_front:
        version = versions[files[index].model]
        if version is not None:
            store.mark(version.name, version.version, {FRONT: name})
    contest = Contest(store, config.registry, rivals, metric)
    devices = [placed(profile, files, versions, contest) for profile in profiles_of(device)]
    return {
        "metric": metric,
        "maximise": maximise,
        "files": [entry_of(entry, index in on_front) for index, entry in enumerate(files)],
        "devices": devices,
    }


def version_of(store: mlflow_store.MlflowStore, uri: str) -> Version | None:
    """The version of an address; None where it is gone."""
    name, _, number = uri.removeprefix("models:/").rpartition("/")
    return store.version(name, int(number))


def placed(
    profile: Profile,
    files: Sequence[FrontFile],
    versions: dict[str, Version | None],
    contest: Contest,
) -> JsonObject:
    """The file of all bases for one device, and whether it gets the alias."""
    there = [entry for entry in files if versions[entry.model] is not None]
    chosen = device_limits.best_within([entry.file for entry in there], profile, contest.rule)
    winner = next((entry for entry in there if entry.file is chosen), None)
    if winner is None:
        return {
            "device": profile.label,
            "alias": profile.alias,
            "limits": profile.limits.asked,
            "format": None,
            "holds": False,
            "reason": ". ".join(
                f"{entry.base} as {shipped_files.why_none(profile, [entry.file])}"
                for entry in files
            )
            or "no file was made",
        }
    version = versions[winner.model]
    assert version is not None
    told = shipped_files.place(profile, [winner.file], version, contest)
    return told | {"base": winner.base}


def rows_of(files: Sequence[FrontFile], plan: Plan) -> str:
    """The fingerprint of the rows that the files were scored on: all test rows, or with
    export.rows a part of them.
    """
    whole = plan.digests["test"]
    parts = {entry.file.scores.digest for entry in files if entry.file.scores is not None}
    return next((part for part in parts if part.startswith(f"{whole}/")), whole)


def rivals_of(results: Sequence[SweepResult], plan: Plan, digest: str) -> list[Rival]:
    """What needs no training, of all bases: the untouched bases and the baselines, by what their
    results say of them. They met all test rows; where the files met a part of them (`digest`),
    which is spread over all, intervals are compared rather than rows.
    """
    rivals = []
    for result in results:
        key, rows = result.metric or "", plan.num_test
        entries: dict[str, tuple[str, Any]] = {}
        if result.base is not None:
            entries["base"] = ("the untouched base model", result.base.metrics)
        for name, scores in result.baselines.items():
            entries[name] = (BASELINES.get(name, name), scores.metrics)
        for kind, (words, metrics) in entries.items():
            if key not in metrics:
                continue
            value, low, high = (metrics[f"{key}{end}"] for end in ("", "_low", "_high"))
            scores_of_it = Scores(value, low, high, rows, digest)
            rivals.append(Rival("base" if kind == "base" else "baselines", words, scores_of_it))
    return rivals


def entry_of(entry: FrontFile, on_front: bool) -> JsonObject:
    """One file, as plain values."""
    report = entry.file.report
    scores, costs = report.get("scores") or {}, report.get("costs") or {}
    return {
        "base": entry.base,
        "model": entry.model,
        "format": entry.file.format,
        "front": on_front,
        "score": entry.score,
        "low": None if entry.file.scores is None else entry.file.scores.low,
        "high": None if entry.file.scores is None else entry.file.scores.high,
        "drop": device_limits.drop(report),
        "bits_per_byte": scores.get("bits_per_byte"),
        "size_mb": costs.get("size_mb"),
        "memory_mb": costs.get("peak_memory_mb"),
        "tokens_per_second": device_limits.tokens_per_second(report, None),
        "file": f"{report['folder']}/{report['file']}",
    }
