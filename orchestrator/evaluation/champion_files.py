"""The present champion's files, fetched so that it can be judged on other rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.data.embeddings import check_installed
from orchestrator.evaluation.version_folder import check_version
from orchestrator.tracking.model_versions import Version


def fetch_champion(
    store: Any, champion: Version, base: BaseModel, folder: Path
) -> tuple[Path, BaseModel]:
    """The present champion's folder, and its base model. Raises InputError or ValueError for
    one that is not ours, or whose files or base model are gone: another program may have
    registered it under the same name.
    """
    shutil.rmtree(
        folder, ignore_errors=True
    )  # what an earlier champion has left would be judged in this one's place
    folder = store.download(champion.uri, folder)
    check_version(champion.uri, folder)
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    if embedding := (task.get("neighbours") or {}).get("embedding"):
        check_installed(embedding)
    described = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    made_on = BaseModel(
        **{key: described[key] for key in ("name", "source", "id", "revision", "path")}
    )
    if Path(made_on.path).is_dir():
        return folder, made_on
    if made_on.revision != base.revision:
        raise ValueError(f"its base model {made_on.name} is no longer in {made_on.path}")
    return folder, base
