"""Whether a folder is a version of a registered model of ours, and its base model."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.base_models import fetch
from jobs.config import BaseModel, Model
from jobs.files import manifest
from orchestrator.config.settings import Config
from orchestrator.errors import InputError

NEEDED: dict[str, dict[str, type]] = {
    "base.json": dict.fromkeys(("name", "source", "id", "revision", "path"), str),
    "task.json": {"instruction": str, "max_new_tokens": int, "max_length": int},
}
"""What a version must hold, by file."""
ADDED_BY_MLFLOW = ("registered_model_meta",)
"""What downloading a model with MLflow writes beside its files: on a local store that is the stored
folder itself.
"""


def check_version(uri: str, folder: Path) -> None:
    """Raise InputError unless `folder` is a version that this project registered."""
    for name, kinds in NEEDED.items():
        try:
            contents = dict(json.loads((folder / name).read_text(encoding="utf-8")))
            lacks = [
                key
                for key, kind in kinds.items()
                if not isinstance(contents.get(key), kind) or (kind is int and contents[key] < 1)
            ]
        except OSError as error:
            problem = f"{folder} has no {name} that can be read ({error.strerror})"
        except (ValueError, TypeError) as error:
            problem = f"{folder / name} is not a JSON object ({error})"
        else:
            problem = f"{folder / name} has no usable {', '.join(lacks)}" if lacks else None
        if problem:
            raise InputError(
                f"model_uri {uri}: {problem}; it is not a version that this project registered"
            )
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    if (folder / manifest.NAME).exists() or task.get("sealed"):  # versions of before have none
        try:
            manifest.check(folder, ignored=ADDED_BY_MLFLOW)
        except manifest.Damaged as error:
            entry = folder / error.why.partition("/")[0]  # the adapter's folder, or the tokenizer's
            damaged = entry if entry.is_dir() else folder
            raise InputError(
                f"model_uri {uri}: cannot load {damaged}: it is damaged ({error.why}); fetch the "
                "version again"
            ) from error


def find_base(config: Config, folder: Path) -> BaseModel:
    """The base model that a version was trained on, fetched again when it is no longer where it
    was.
    """
    described = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    base = BaseModel(**{key: described[key] for key in NEEDED["base.json"]})
    if Path(base.path).is_dir():
        return base
    if base.source == "hub":
        return fetch.prepare(
            Model(name=base.name, source="hub", id=base.id, revision=base.revision)
        )
    if config.model.name == base.name:
        return fetch.prepare(config.model)
    raise ValueError(f"its base model is no longer in {base.path}; name it: model={base.name}")
