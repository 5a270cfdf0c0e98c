"""Moving the champion's alias by hand: job=promote gives it to a version, job=rollback back to the
version that had it before. Who did it and why is kept with the version.
"""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC, datetime

from jobs.files.json_types import JsonObject
from orchestrator.commands.predict import store_address
from orchestrator.config.credentials import mask
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.job_environment import mark_answer
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking import mlflow_store
from orchestrator.tracking.model_versions import CHAMPION, PREVIOUS, Version


def run(config: Config) -> int:
    """Print where the alias is now, or with dry_run=true where it would go; returns the exit
    code.
    """
    address = store_address(config)
    store = mlflow_store.connect(
        address, config.tracking.experiment, storage_folder(config.storage) / "artifacts"
    )
    name = (config.model_uri or "").removeprefix("models:/").partition("@")[0].partition("/")[0]
    before = store.champion(name)
    version = chosen(config, store, name)
    reason, by = (config.job.reason or "").strip(), author(config)
    if before is not None and before.version == version.version:
        raise InputError(f"model_uri {config.model_uri}: {version.uri} is the champion already")
    answer = {
        "job": config.job.kind,
        "model": {"name": name, "version": version.version, "uri": version.uri, "alias": CHAMPION},
        "previous": None if before is None else before.uri,
        "reason": reason,
        "author": by,
    }
    was = "no version had it before" if before is None else f"it was at {before.uri}"
    if config.dry_run:
        show(
            config,
            {"plan": answer},
            f"plan    would give {version.uri} the alias {CHAMPION}; {was}",
        )
        return 0
    store.set_champion(name, version.version)
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    store.mark(name, version.version, tags(config.job.kind, before, reason, by, moment))
    show(config, answer, f"model   {version.uri} -> alias {CHAMPION} ({was}): {reason}, by {by}")
    return 0


def chosen(config: Config, store: mlflow_store.MlflowStore, name: str) -> Version:
    """The version that gets the alias. Raises InputError, with what there is, where there is no
    such version.
    """
    uri = config.model_uri or ""
    if config.job.kind == "rollback":
        version = store.aliased(name, PREVIOUS)
        if version is None:
            remedy = "job=promote model_uri=models:/NAME/3 gives the alias to a version"
            raise InputError(
                f"model_uri {uri}: no version has the alias {PREVIOUS}, so there is nothing to "
                f"go back to ({store.inventory(name).removeprefix('no such version; ')}); {remedy}"
            )
        return version
    _, alias, wanted = uri.partition("@")
    if alias:
        version = store.aliased(name, wanted)
    else:
        version = store.version(name, int(uri.rpartition("/")[2]))
    if version is None:
        raise InputError(f"model_uri {uri}: {store.inventory(name)}")
    return version


def author(config: Config) -> str:
    """Who moves the alias: the one that is named, else the store's or the machine's user."""
    if config.job.author is not None:
        return config.job.author.strip()
    if named := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def tags(kind: str, before: Version | None, reason: str, by: str, moment: str) -> dict[str, str]:
    """What a version remembers of how it got the alias: the last time by itself, all of them as
    numbered lines.
    """
    move_tags = {
        "alias.moved_by": kind,
        "alias.reason": reason,
        "alias.author": by,
        "alias.moved_at": moment,
        "alias.moved_from": "" if before is None else before.uri,
    }
    line = json.dumps(move_tags, ensure_ascii=False)
    return move_tags | {f"alias.log.{moment}": line}


def show(config: Config, answer: JsonObject, line: str) -> None:
    """The answer on stdout, without secrets."""
    mark_answer()
    print(json.dumps(answer, ensure_ascii=False) if config.output == "json" else mask(line))
