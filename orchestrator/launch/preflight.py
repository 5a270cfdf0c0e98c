"""Every setting that cannot work where the work runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jobs.data.paths import data_paths
from jobs.files import filesystem
from orchestrator.config import credentials, merge_checks, synthesis_checks
from orchestrator.config.settings import Config
from orchestrator.errors import TrackingError
from orchestrator.launch.shipping_checks import shipping_problems
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking.uri import is_files, resolve


def problems(config: Config) -> list[tuple[str, str]]:
    """Settings that cannot work where the work runs, as (dotted path, message) pairs."""
    faults = placement_problems(config) + data_problems(config) + shipping_problems(config)
    faults += synthesis_checks.problems(config) + merge_checks.problems(config)
    if config.tracking.uri is not None and "tracking.uri" not in dict(faults):
        try:
            resolve(config.tracking.uri)
        except TrackingError as error:
            faults.append(("tracking.uri", str(error).removeprefix("tracking.uri").lstrip("= ")))
    return faults


def placement_problems(config: Config) -> list[tuple[str, str]]:
    """Settings of cluster, storage and tracking that do not fit each other."""
    cluster = config.cluster
    faults = cluster.misplaced() + storage_problems(config)
    if cluster.kind == "local":
        return faults
    if (
        not config.runs_here
        and config.tracking.uri is not None
        and credentials.holds_secret(config.tracking.uri)
    ):
        remedy = (
            "give the cluster's pods or nodes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
        faults.append(
            (
                "tracking.uri",
                f"holds a password, which all who see the cluster's jobs could read; {remedy} "
                "(cluster.environment_secrets)",
            )
        )
    if cluster.kind == "kuberay":
        from orchestrator.kuberay import preflight

        return faults + [
            (path, text) for path, text in preflight.problems(config) if path not in dict(faults)
        ]
    if is_files(config.tracking.uri):
        configured_uri = (
            "null, which is SQLite in the storage"
            if config.tracking.uri is None
            else config.tracking.uri
        )
        faults.append(
            (
                "tracking.uri",
                "on a cluster it must be a server that all can reach, http://HOST:5000 or "
                f"postgresql://..., got {configured_uri}",
            )
        )
    if cluster.kind == "attached":
        head = cluster.address or ""
        if head != "???" and not re.fullmatch(r"auto|https?://[^/\s@]+/?[^@]*", head):
            got = f", got {credentials.mask(head)!r}" if head else ""
            faults.append(
                (
                    "cluster.address",
                    f"must be http://HEAD:8265, or auto inside the cluster{got}; the token is "
                    "given apart",
                )
            )
    return faults


def data_problems(config: Config) -> list[tuple[str, str]]:
    """Data sets with a secret in their address, which is kept with all that is trained on them."""
    return [
        (setting, problem)
        for setting, location in data_paths(config.data).items()
        if filesystem.is_uri(location)
        and (problem := credentials.store_problem(location)) is not None
    ]


def storage_problems(config: Config) -> list[tuple[str, str]]:
    """Why sweeps cannot be kept where the storage setting says, as far as this machine can tell."""
    storage = config.storage
    remote = config.cluster.kind != "local"
    if re.match(r"\w[\w+.-]*:/", storage) and not storage.startswith("file://"):
        return uri_problems(config)
    if config.cluster.kind == "kuberay" and config.cluster.ray_cluster is None:
        return []  # below the mount of the claim: kuberay/check.py
    if remote and not os.path.isabs(storage.removeprefix("file://")):
        return [
            (
                "storage",
                "on a cluster it must be a folder that every node sees, such as "
                f"storage=/mnt/shared/outputs, got {storage}",
            )
        ]
    if remote and not config.runs_here:
        return []  # this machine need not see it
    if storage.startswith("file://") and not storage.startswith("file:///"):
        return [
            (
                "storage",
                f"{storage} is no file:// URI of a folder; write it with three slashes, "
                f"file:///{storage[7:]}",
            )
        ]
    problem = unusable(storage_folder(storage), writing=config.job.kind in ("train", "synthesize"))
    return (
        [("storage", f"{storage} {problem}; choose another one: storage=FOLDER")] if problem else []
    )


def uri_problems(config: Config) -> list[tuple[str, str]]:
    """Why an object store cannot be the storage."""
    storage = config.storage
    schemes = ", ".join(filesystem.SCHEMES)
    if (problem := credentials.store_problem(storage)) is not None:
        return [("storage", problem)]
    if not re.fullmatch(rf"({'|'.join(filesystem.SCHEMES)})://[^/\s]+(/[^\s]*)?", storage):
        return [
            (
                "storage",
                f'"{storage}" is neither a folder nor a URI such as s3://BUCKET/PREFIX '
                f"(schemes: file, {schemes})",
            )
        ]
    if config.cluster.kind == "local" and (config.tracking.uri or "sqlite:").startswith("sqlite:"):
        return [
            ("tracking.uri", f"with storage={storage} it must be a server: SQLite needs a folder")
        ]
    return []


def unusable(folder: Path, writing: bool) -> str | None:
    """Why sweeps cannot be kept in a folder that may not exist yet, or None."""
    try:
        nearest_existing = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if not nearest_existing.is_dir():
        return (
            "is a file; it must be a folder"
            if nearest_existing == folder
            else f"lies below {nearest_existing}, which is a file"
        )
    return (
        f"cannot be written: {nearest_existing} is not open to this user"
        if writing and not os.access(nearest_existing, os.W_OK | os.X_OK)
        else None
    )
