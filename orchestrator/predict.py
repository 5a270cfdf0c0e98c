"""Answering one prompt with a registered model: job=predict model_uri=models:/NAME@champion prompt="..."."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from jobs import fetch
from jobs.config import BaseModel, Model
from orchestrator import tracking
from orchestrator.config import Config
from orchestrator.errors import InputError
from orchestrator.journal import storage_folder


def run(config: Config) -> int:
    """Print the model's answer on stdout; returns the exit code."""
    assert config.model_uri is not None and config.prompt is not None
    with tempfile.TemporaryDirectory(prefix="version-") as scratch:
        folder = find(config, Path(scratch))
        try:
            from jobs.predict import predict

            answered = predict(find_base(config, folder), folder, config.prompt)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"model_uri {config.model_uri}: {error}") from error
    print(json.dumps({"prompt": config.prompt, "answer": answered}, ensure_ascii=False) if config.output == "json" else answered)
    return 0


def find(config: Config, scratch: Path) -> Path:
    """The version's folder: a local one, or fetched from the tracking store. Raises InputError."""
    uri = config.model_uri or ""
    if "://" not in uri and not uri.startswith(("models:", "runs:")):
        folder = Path(uri).expanduser()
    else:
        default = storage_folder(config.storage) / "mlflow.db"
        if config.tracking.uri is None and not default.exists():
            raise InputError(f"model_uri {uri}: nothing was trained yet in storage {config.storage} ({default} does not exist)")
        address = config.tracking.uri or f"sqlite:///{default}"
        folder = tracking.connect(address, config.tracking.experiment, default.parent / "artifacts").download(uri, scratch)
    for name in ("base.json", "task.json"):
        if not (folder / name).is_file():
            raise InputError(f"model_uri {uri}: {folder} has no {name}; it is not a version that this project registered")
    return folder


def find_base(config: Config, folder: Path) -> BaseModel:
    """The base model that a version was trained on, fetched again when it is no longer where it was."""
    described = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    base = BaseModel(**{key: described[key] for key in ("name", "source", "id", "revision", "path")})
    if Path(base.path).is_dir():
        return base
    if base.source == "hub":
        return fetch.prepare(Model(name=base.name, source="hub", id=base.id, revision=base.revision))
    if config.model.name == base.name:
        return fetch.prepare(config.model)
    raise ValueError(f"its base model is no longer in {base.path}; name it: model={base.name}")
