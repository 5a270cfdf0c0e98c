"""What the machines of a cluster must share, and how each thing gets to every node: storage, tracking, the base model, the user's data.

The rules on settings are pure; `publish` copies data files into the storage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from pathlib import Path

from jobs import store
from jobs.config import BaseModel, data_paths, with_paths
from orchestrator import address, credentials, ship
from orchestrator.config import Config
from orchestrator.errors import InputError
from orchestrator.journal import storage_folder

HASH_BYTES = 1 << 20


def problems(config: Config) -> list[tuple[str, str]]:
    """Settings that cannot work where the work runs."""
    cluster = config.cluster
    found = cluster.misplaced() + storage_problems(config)
    if cluster.kind == "local":
        return found
    if not inside(config) and config.tracking.uri is not None and credentials.holds_secret(config.tracking.uri):
        remedy = "give the cluster's pods or nodes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        found.append(
            ("tracking.uri", f"holds a password, which all who see the cluster's jobs could read; {remedy} (cluster.environment_secrets)")
        )
    if cluster.kind == "kuberay":
        from orchestrator.kuberay import check

        return found + [(path, text) for path, text in check.problems(config) if path not in dict(found)]
    if is_files(config.tracking.uri):
        given = "null, which is SQLite in the storage" if config.tracking.uri is None else config.tracking.uri
        found.append(
            ("tracking.uri", f"on a cluster it must be a server that all can reach, http://HOST:5000 or postgresql://..., got {given}")
        )
    if cluster.kind == "attached":
        head = cluster.address or ""
        if head != "???" and not re.fullmatch(r"auto|https?://[^/\s@]+/?[^@]*", head):
            got = f", got {address.mask(head)!r}" if head else ""
            found.append(("cluster.address", f"must be http://HEAD:8265, or auto inside the cluster{got}; the token is given apart"))
    return found


def is_files(uri: str | None) -> bool:
    """Whether a tracking store is files of one machine, or a word that means such."""
    return uri is None or uri.lower().startswith(("sqlite:", "file:")) or ":" not in uri


def storage_problems(config: Config) -> list[tuple[str, str]]:
    """Why sweeps cannot be kept where the storage setting says, as far as this machine can tell."""
    storage, remote = config.storage, config.cluster.kind != "local"
    if re.match(r"\w[\w+.-]*:/", storage) and not storage.startswith("file://"):
        return uri_problems(config)
    if config.cluster.kind == "kuberay" and config.cluster.ray_cluster is None:
        return []  # below the mount of the claim: kuberay/check.py
    if remote and not os.path.isabs(storage.removeprefix("file://")):
        return [("storage", f"on a cluster it must be a folder that every node sees, such as storage=/mnt/shared/outputs, got {storage}")]
    if remote and not inside(config):
        return []  # this machine need not see it
    if storage.startswith("file://") and not storage.startswith("file:///"):
        return [("storage", f"{storage} is no file:// URI of a folder; write it with three slashes, file:///{storage[7:]}")]
    problem = unusable(storage_folder(storage), writing=config.job.kind == "train")
    return [("storage", f"{storage} {problem}; choose another one: storage=FOLDER")] if problem else []


def uri_problems(config: Config) -> list[tuple[str, str]]:
    """Why an object store cannot be the storage."""
    storage, schemes = config.storage, ", ".join(store.SCHEMES)
    if credentials.holds_secret(storage) or re.search(r"[?&]\w*(secret|token|key)\w*=", storage):
        remedy = "give it in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in pods: cluster.environment_secrets)"
        return [("storage", f"holds a secret, which all who see the plan or the cluster's jobs could read; {remedy}")]
    if not re.fullmatch(rf"({'|'.join(store.SCHEMES)})://[^/\s]+(/[^\s]*)?", storage):
        return [("storage", f'"{storage}" is neither a folder nor a URI such as s3://BUCKET/PREFIX (schemes: file, {schemes})')]
    if config.cluster.kind == "local" and (config.tracking.uri or "sqlite:").startswith("sqlite:"):
        return [("tracking.uri", f"with storage={storage} it must be a server: SQLite needs a folder")]
    return []


def inside(config: Config) -> bool:
    """Whether this process is on the machines where the work runs, rather than sending it there."""
    return config.cluster.kind == "local" or (config.cluster.kind == "attached" and config.cluster.address == "auto")


def unusable(folder: Path, writing: bool) -> str | None:
    """Why sweeps cannot be kept in a folder that may not exist yet, or None."""
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if not there.is_dir():
        return "is a file; it must be a folder" if there == folder else f"lies below {there}, which is a file"
    return f"cannot be written: {there} is not open to this user" if writing and not os.access(there, os.W_OK | os.X_OK) else None


def named_paths(config: Config) -> dict[str, str]:
    """The files and folders that settings name, by dotted path: the data's, and a base model's."""
    path = config.model.path if config.model.source == "path" else None
    return data_paths(config.data) | ({"model.path": path} if path is not None else {})


def came_along(config: Config) -> bool:
    """Whether the base model is a folder that was sent with the code."""
    return "model.path" in (named := named_paths(config)) and Path(named["model.path"]).is_relative_to(ship.ROOT)


def use_shared_cache(config: Config) -> None:
    """Keep base models in the storage, where every node finds them, unless the image or the user has named another cache."""
    if not store.is_uri(config.storage):
        os.environ.setdefault("ORCHESTRATOR_CACHE", str(storage_folder(config.storage) / "cache"))


def publish(config: Config) -> Config:
    """Copy the data files, and a base model that came along, into the storage, which every node sees, and point the settings there. What is
    in the storage stays there. A model's folder is never copied into an object store: it is read from the code that was sent.

    Raises InputError when a file cannot be read or copied.
    """
    storage = storage_folder(config.storage)

    def moved(path: str) -> str:
        if Path(path).is_relative_to(storage) or not os.path.exists(path):
            return path
        target = copied(Path(path), storage / "data")
        if not store.is_uri(config.storage):
            return str(target)
        there = store.join(config.storage, str(target.relative_to(storage)))
        if not store.exists(there):
            store.put(target, there)
        return there

    try:
        config = dataclasses.replace(config, data=with_paths(config.data, moved))
        if not came_along(config) or store.is_uri(config.storage):
            return config
        return dataclasses.replace(config, model=dataclasses.replace(config.model, path=moved(str(config.model.path))))
    except OSError as error:
        raise InputError(f"the data cannot be copied into storage {config.storage}: {error}") from error


def copied(path: Path, folder: Path) -> Path:
    """A file's or folder's copy, in a place named by its content, so that what a sweep trains on does not change under it."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0".encode())
            with file.open("rb") as stream:
                while part := stream.read(HASH_BYTES):  # a model's file may be larger than the memory
                    digest.update(part)
    target = folder / digest.hexdigest()[:12] / path.name
    if not target.exists():
        draft = target.with_name(f"{target.name}.{os.getpid()}.draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, draft) if path.is_dir() else shutil.copy(path, draft)
        os.replace(draft, target)
    return target


def notes(config: Config, base: BaseModel | None) -> list[str]:
    """How the base model and the data reach every node, for the plan of a cluster."""
    if config.cluster.kind == "local":
        return []
    storage, base = storage_folder(config.storage), base if inside(config) else None  # where it lies here says nothing about there
    path = named_paths(config).get("model.path") or (base.path if base is not None else None)
    kept = not store.is_uri(config.storage) and (path is None or Path(path).is_relative_to(storage))
    read = "every node reads it from the storage" if kept else "a node without it fetches it once, into its cache"
    if not kept and config.model.source == "path":
        read = "it comes with the code" if came_along(config) else "every node reads it there, so each must see it"
    at = f" at {path}" if path is not None else ""
    data = store.join(config.storage if store.is_uri(config.storage) else str(storage), "data")
    return [f"base model{at}: {read}", f"data: copied to {data}, from where every node reads it"]
