"""Every setting that cannot work where the work runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jobs.files import filesystem
from orchestrator.config import credentials
from orchestrator.config.settings import Config
from orchestrator.errors import TrackingError
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking.uri import is_files, resolve


def problems(config: Config) -> list[tuple[str, str]]:
    """Settings that cannot work where the work runs, as (dotted path, message) pairs."""
    found = placement_problems(config)
    if config.tracking.uri is not None and "tracking.uri" not in dict(found):
        try:
            resolve(config.tracking.uri)
        except TrackingError as error:
            found.append(("tracking.uri", str(error).removeprefix("tracking.uri").lstrip("= ")))
    return found


def placement_problems(config: Config) -> list[tuple[str, str]]:
    """Settings of cluster, storage and tracking that do not fit each other."""
    cluster = config.cluster
    found = cluster.misplaced() + storage_problems(config)
    if cluster.kind == "local":
        return found
    if (
        not config.runs_here
        and config.tracking.uri is not None
        and credentials.holds_secret(config.tracking.uri)
    ):
        remedy = (
            "give the cluster's pods or nodes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
        found.append(
            (
                "tracking.uri",
                f"holds a password, which all who see the cluster's jobs could read; {remedy} "
                "(cluster.environment_secrets)",
            )
        )
    if cluster.kind == "kuberay":
        from orchestrator.kuberay import preflight

        return found + [
            (path, text) for path, text in preflight.problems(config) if path not in dict(found)
        ]
    if is_files(config.tracking.uri):
        given = (
            "null, which is SQLite in the storage"
            if config.tracking.uri is None
            else config.tracking.uri
        )
        found.append(
            (
                "tracking.uri",
                "on a cluster it must be a server that all can reach, http://HOST:5000 or "
                f"postgresql://..., got {given}",
            )
        )
    if cluster.kind == "attached":
        head = cluster.address or ""
        if head != "???" and not re.fullmatch(r"auto|https?://[^/\s@]+/?[^@]*", head):
            got = f", got {credentials.mask(head)!r}" if head else ""
            found.append(
                (
                    "cluster.address",
                    f"must be http://HEAD:8265, or auto inside the cluster{got}; the token is "
                    "given apart",
                )
            )
    return found


def storage_problems(config: Config) -> list[tuple[str, str]]:
    """Why sweeps cannot be kept where the storage setting says, as far as this machine can tell."""
    storage, remote = config.storage, config.cluster.kind != "local"
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
    problem = unusable(storage_folder(storage), writing=config.job.kind == "train")
    return (
        [("storage", f"{storage} {problem}; choose another one: storage=FOLDER")] if problem else []
    )


def uri_problems(config: Config) -> list[tuple[str, str]]:
    """Why an object store cannot be the storage."""
    storage, schemes = config.storage, ", ".join(filesystem.SCHEMES)
    if credentials.holds_secret(storage) or re.search(r"[?&]\w*(secret|token|key)\w*=", storage):
        remedy = (
            "give it in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in "
            "pods: cluster.environment_secrets)"
        )
        return [
            (
                "storage",
                "holds a secret, which all who see the plan or the cluster's jobs could read; "
                f"{remedy}",
            )
        ]
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
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if not there.is_dir():
        return (
            "is a file; it must be a folder"
            if there == folder
            else f"lies below {there}, which is a file"
        )
    return (
        f"cannot be written: {there} is not open to this user"
        if writing and not os.access(there, os.W_OK | os.X_OK)
        else None
    )
