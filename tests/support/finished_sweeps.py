"""What a sweep has left in its storage: the journal, the decisions, the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def journal(storage: Path) -> list[dict[str, Any]]:
    """All events of all sweeps of a store."""
    return [
        json.loads(line)
        for file in storage.glob("sweeps/*/journal.jsonl")
        for line in file.read_text().splitlines()
    ]


def decided(storage: Path) -> list[str]:
    """What was said of each candidate for the champion's alias, oldest first."""
    return [
        e["tags"]["model.decision"]
        for e in journal(storage)
        if e["kind"] == "tags" and "model.decision" in e["tags"]
    ]


def champion(storage: Path, name: str) -> int:
    """The version that carries the champion's alias."""
    return int(registry(storage).get_model_version_by_alias(name, "champion").version)


def registry(storage: Path) -> Any:
    """MLflow's own client for the store of a sweep."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
