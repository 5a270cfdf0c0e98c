"""A version as the file that ships: job=export model_uri=models:/NAME@champion export.format=...

Written, checked against the trained model in its own runtime, scored on the version's test rows;
the scores go to the version in MLflow, and to its card.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from jobs.export.formats import FORMATS
from jobs.files.json_types import JsonObject
from orchestrator.commands.predict import find, local_folder, store_address
from orchestrator.config.credentials import mask
from orchestrator.config.device_settings import profiles_of
from orchestrator.config.registry_settings import Registry
from orchestrator.config.settings import Config
from orchestrator.config.shipping import DEFAULT_FORMAT
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.evaluation import shipped_files, shipped_version
from orchestrator.evaluation.device_limits import MeasuredFile
from orchestrator.evaluation.shipped_files import Contest
from orchestrator.evaluation.version_folder import check_version, find_base
from orchestrator.job_environment import mark_answer
from orchestrator.output.shipped_text import device_lines
from orchestrator.plan.task import TEST
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking import mlflow_store
from orchestrator.tracking.model_versions import Version

REPORT = "export.json"


def run(config: Config) -> int:
    """Print where the file is and what it scores, on stdout, or with dry_run=true what would be
    written; returns the exit code.
    """
    uri = config.model_uri or ""
    form = format_of(config)
    if config.dry_run:
        local = local_folder(uri)
        if local is not None:
            check_version(uri, local)
        source = mask(store_address(config)) if local is None else str(local)
        record: JsonObject = {"job": "export", "model_uri": uri, "format": form}
        show(
            config,
            {"plan": record | {"from": source}},
            f"plan    would export {uri} of {source} as {form}",
        )
        return 0
    store, version = registered(config)
    name = model_name(uri, version)
    target = target_folder(config, name, version)
    check_target(target)
    with tempfile.TemporaryDirectory(prefix="version-") as scratch:
        folder = find(config, Path(scratch))
        report = ship(config, folder, name, version, target)
    told: list[JsonObject] = []
    if version is not None and store is not None:
        shipped_version.record(store, version, report)
        told = placed(config, store, version, report)
    lines = [f"{label:<8}{line}" for each in told for label, line in device_lines(each)]
    answer = {"job": "export"} | report | ({"devices": told} if told else {})
    show(config, answer, "\n".join([shipped_version.summary(report), *lines]))
    return 0


def placed(
    config: Config, store: mlflow_store.MlflowStore, version: Version, report: dict[str, Any]
) -> list[JsonObject]:
    """For each device whether the file gets its alias: within its limits it has to beat the file
    that has the alias so far.
    """
    scores = shipped_files.scores_of(report, version.tags.get(TEST, ""))
    file = MeasuredFile(str(report["format"]), report, scores)
    contest = Contest(store, Registry(), [], file.metric)
    named = [profile for profile in profiles_of(config.device) if profile.name is not None]
    return [shipped_files.place(profile, [file], version, contest) for profile in named]


def ship(
    config: Config, folder: Path, name: str, version: Version | None, target: Path
) -> dict[str, Any]:
    """Write the file; returns its report. Raises InputError where the version cannot take the form,
    OrchestratorError where the file is not right or the machine too small.
    """
    from jobs.export.shipment import Shipment, ShipmentSettings  # torch: seconds

    settings = ShipmentSettings(
        uri=(config.model_uri or "") if version is None else version.uri,
        name=name,
        score=config.export.score,
        rows=config.export.rows,
        threads=tuple(threads_of(config)),
        confidence=config.job.confidence,
        made_by={"rows": config.export.rows, "threads": threads_of(config)}
        | {"confidence": config.job.confidence},
    )
    form = FORMATS[format_of(config)]
    try:
        shipment = Shipment(folder, find_base(config, folder), form, settings)
        make_room(target)
        return shipment.run(target)
    except MemoryError as error:
        raise OrchestratorError(str(error)) from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"model_uri {config.model_uri}: {error}") from error


def registered(config: Config) -> tuple[mlflow_store.MlflowStore | None, Version | None]:
    """The store and the version that model_uri names there; nothing for a folder. Raises InputError
    where there is no such version.
    """
    uri = config.model_uri or ""
    if not uri.startswith("models:"):
        return None, None
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", uri)
    if match is None:
        raise InputError(
            f"model_uri {uri}: write models:/NAME@champion, models:/NAME/3 or a folder"
        )
    store = mlflow_store.connect(
        store_address(config),
        config.tracking.experiment,
        storage_folder(config.storage) / "artifacts",
    )
    name, alias, number = match.groups()
    version = store.aliased(name, alias) if alias else store.version(name, int(number))
    if version is None:
        raise InputError(f"model_uri {uri}: {store.inventory(name)}")
    return store, version


def threads_of(config: Config) -> list[int]:
    """At which numbers of threads the speed is measured: those of a device too."""
    named = [profile.limits.threads for profile in profiles_of(config.device)]
    return sorted({*config.export.threads, *(count for count in named if count is not None)})


def format_of(config: Config) -> str:
    """The format that is made."""
    return next(iter(config.export.formats), DEFAULT_FORMAT)


def model_name(uri: str, version: Version | None) -> str:
    """What the file is called: the registered model, or what a folder's card says."""
    if version is not None:
        return version.name
    card = Path(uri).expanduser() / "README.md"
    first = card.read_text(encoding="utf-8").split("\n", 1)[0] if card.is_file() else ""
    folder = Path(uri).expanduser().absolute()
    folder = folder.parent if folder.name == "export" else folder  # a sweep's own
    name = first.removeprefix("# ").strip() or folder.name
    return re.sub(r"[^\w.+-]+", "-", name)


def target_folder(config: Config, name: str, version: Version | None) -> Path:
    """Where the export is written."""
    if config.export.folder is not None:
        return Path(config.export.folder).expanduser().absolute()
    numbered = name if version is None else f"{name}-{version.version}"
    return storage_folder(config.storage) / "exports" / numbered / format_of(config)


def check_target(target: Path) -> None:
    """Raise InputError for a folder that holds something else than an export."""
    if target.exists() and not target.is_dir():
        raise InputError(f"export.folder {target} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / REPORT).exists():
        raise InputError(
            f"export.folder {target} holds something else; name a folder that is not there yet"
        )


def make_room(target: Path) -> None:
    """Make the folder that the export's folder lies in. Raises InputError where that is not
    possible.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}; export.folder=DIR names "
            "another place"
        ) from error


def show(config: Config, answer: JsonObject, text: str) -> None:
    """The answer on stdout."""
    mark_answer()
    print(json.dumps(answer, ensure_ascii=False) if config.output == "json" else mask(text))
