"""What the machines of a cluster must share, and how each thing gets to every node: storage,
tracking, the base model, the user's data.

The rules on settings are pure; `publish` copies data files into the storage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs.config import BaseModel
from jobs.data import hub_data, locations
from jobs.data.paths import data_paths, with_embedding, with_paths
from jobs.files import filesystem
from jobs.files.drafts import complete_once
from orchestrator import project
from orchestrator.config.settings import Config, changed
from orchestrator.errors import InputError
from orchestrator.storage.paths import storage_folder
from orchestrator.storage.sent_files import files_of


def named_paths(config: Config) -> dict[str, str]:
    """The files and folders that settings name, by dotted path: the data's, an embedding model's,
    and a base model's.
    """
    embedding = config.data.neighbours.embedding
    named = {
        "data.neighbours.embedding": None if locations.is_remote(embedding or "") else embedding,
        "model.path": config.model.path if config.model.source == "path" else None,
    }
    return data_paths(config.data) | {name: path for name, path in named.items() if path}


def shipped_with_code(config: Config) -> bool:
    """Whether the base model is a folder that was sent with the code."""
    return "model.path" in (named := named_paths(config)) and Path(
        named["model.path"]
    ).is_relative_to(project.ROOT)


def unsent_folders(config: Config) -> dict[str, str]:
    """The folders of models that every node has to see by itself, by setting: neither sent with the
    code nor copied into the storage.
    """
    named = named_paths(config)
    folders = {} if shipped_with_code(config) else {"model.path": named.get("model.path")}
    embedding = named.get("data.neighbours.embedding")
    if filesystem.is_uri(config.storage) and not Path(embedding or "").is_relative_to(project.ROOT):
        folders["data.neighbours.embedding"] = embedding
    return {setting: folder for setting, folder in folders.items() if folder is not None}


def use_shared_cache(config: Config) -> None:
    """Keep base models in the storage, where every node finds them, unless the image or the user
    has named another cache.
    """
    if not filesystem.is_uri(config.storage):
        os.environ.setdefault("ORCHESTRATOR_CACHE", str(storage_folder(config.storage) / "cache"))


def stage_data(config: Config) -> Config:
    """Copy the data files, and a base model that came along, into the storage, which every node
    sees, and point the settings there; a data set of the hub is fetched for that. What is in the
    storage, or in an object store, stays there. A model's folder is
    never copied into an object store: it is read from the code that was sent.

    Raises InputError when a file cannot be read or copied.
    """
    storage = storage_folder(config.storage)

    def moved(path: str) -> str:
        if path.startswith(hub_data.SCHEME):
            path = locations.local(path)
        if filesystem.is_uri(path) or Path(path).is_relative_to(storage):
            return path
        if locations.is_pattern(path):
            base = locations.folder_of(path)
            target = copied(Path(base), storage / "data", locations.matching(path))
            return shared(target) + path.removeprefix(base)
        return shared(copied(Path(path), storage / "data")) if os.path.exists(path) else path

    def shared(target: Path) -> str:
        if not filesystem.is_uri(config.storage):
            return str(target)
        target_uri = filesystem.join(config.storage, str(target.relative_to(storage)))
        if not filesystem.exists(target_uri):
            filesystem.put(target, target_uri)
        return target_uri

    def moved_model(path: str) -> str:
        if path.startswith(hub_data.SCHEME):
            path = hub_data.fetch_model(path)
        elif not os.path.isdir(path):
            return path
        return str(copied(Path(path), storage / "data"))

    try:
        data = with_paths(config.data, moved)
        if not filesystem.is_uri(config.storage):
            data = with_embedding(data, moved_model)
        config = changed(config, data=data)
        if not shipped_with_code(config) or filesystem.is_uri(config.storage):
            return config
        return changed(
            config, model=dataclasses.replace(config.model, path=moved(str(config.model.path)))
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"the data cannot be copied into storage {config.storage}: {error}"
        ) from error


def copied(path: Path, folder: Path, only: Sequence[str] | None = None) -> Path:
    """A file's or folder's copy, in a place named by its content, so that what a sweep trains on
    does not change under it. `only` are the files of the folder that are copied; None for all.
    """
    digest = hashlib.sha256()
    inside = files_of(path)
    if only is not None:  # of which some may be folders of Arrow files
        chosen = {Path(file) for file in only}
        inside = [file for file in inside if chosen & {file, file.parent}]
    for file in inside:
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0".encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)  # goes on with this one, piece by piece
    target = folder / digest.hexdigest()[:12] / path.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with complete_once(target) as draft:
            for file in inside:
                copy = draft / file.relative_to(path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
    return target


def notes(config: Config, base: BaseModel | None) -> list[str]:
    """How the base model and the data reach every node, for the plan of a cluster."""
    if config.cluster.kind == "local":
        return []
    # where it lies here says nothing about there
    storage = storage_folder(config.storage)
    base = base if config.runs_here else None
    path = named_paths(config).get("model.path") or (base.path if base is not None else None)
    in_storage = not filesystem.is_uri(config.storage) and (
        path is None or Path(path).is_relative_to(storage)
    )
    read = (
        "every node reads it from the storage"
        if in_storage
        else "a node without it fetches it once, into its cache"
    )
    if not in_storage and config.model.source == "path":
        read = (
            "it comes with the code"
            if shipped_with_code(config)
            else "every node reads it there, so each must see it"
        )
    at = f" at {path}" if path is not None else ""
    data = filesystem.join(
        config.storage if filesystem.is_uri(config.storage) else str(storage), "data"
    )
    stores = [
        path
        for path in data_paths(config.data).values()
        if filesystem.is_uri(path) and not path.startswith(hub_data.SCHEME)
    ]
    notes = [f"base model{at}: {read}", f"data: copied to {data}, from where every node reads it"]
    notes += [f"data: {', '.join(stores)} stays there, and every node reads it"] if stores else []
    return notes
