"""The base model of a registered version, on a machine that knows the version's folder alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jobs.base_models import fetch
from jobs.config import BaseModel, Model

VARIABLE = "ORCHESTRATOR_BASE"
"""Names a folder that holds the base model, where it cannot be found otherwise."""
FIELDS = ("name", "source", "id", "revision", "path")


def base_of(folder: Path) -> BaseModel:
    """The base model that base.json pins: where it was, or fetched into this machine's cache.

    Raises ValueError, with what to do, where it cannot be had or is another one.
    """
    described = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    base = BaseModel(**{key: described[key] for key in FIELDS})
    remedy = f"copy it to this machine and name its folder in the variable {VARIABLE}"
    path = os.environ.get(VARIABLE)
    try:
        if path:
            prepared = fetch.prepare(Model(name=base.name, source="path", path=path))
            return (
                pinned(base, prepared, f"{VARIABLE}={path}") if base.source == "path" else prepared
            )
        if base.source == "path":
            if not Path(base.path).is_dir():
                raise ValueError(f"it was the folder {base.path}, which is not here; {remedy}")
            prepared = fetch.prepare(Model(name=base.name, source="path", path=base.path))
            return pinned(base, prepared, base.path)
        if Path(base.path).is_dir():
            return base
        return pinned(base, fetch.prepare(source_of(base, described)), base.id)
    except ValueError as error:
        raise ValueError(f"the base model {base.name} of this version: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            f"the base model {base.name} of this version cannot be fetched from {base.source} "
            f"{base.id}: {error}; or {remedy}"
        ) from error


def pinned(base: BaseModel, prepared: BaseModel, where: str) -> BaseModel:
    """`prepared`, where it is the model that the version was trained on; else raises ValueError."""
    if prepared.revision != base.revision:
        raise ValueError(
            f"{where} holds the revision {prepared.revision[:12]}, and the version was trained on "
            f"{base.revision[:12]}; name a folder with that one in the variable {VARIABLE}"
        )
    return prepared


def source_of(base: BaseModel, described: dict[str, Any]) -> Model:
    """Where to fetch a base model that is not here. Raises ValueError where base.json does not say
    enough.
    """
    if base.source == "hub":
        return Model(name=base.name, source="hub", id=base.id, revision=base.revision)
    if base.source == "tiny":
        return Model(name=base.name, source="tiny")
    if "file" not in described:
        raise ValueError(
            f"it came from the package {base.id}, and base.json does not say which file of it; "
            f"name its folder in the variable {VARIABLE}"
        )
    package, _, version = base.id.partition("==")
    return Model(
        name=base.name,
        source="wheel",
        package=package,
        version=version,
        sha256=base.revision,
        file=described["file"],
    )
