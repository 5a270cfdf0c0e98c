"""Environment variables that other tools go by and this one does not: what is said of them."""

from __future__ import annotations

import os

from orchestrator.config import credentials
from orchestrator.config.settings import Config


def environment_notes(config: Config) -> list[str]:
    """Variables that other programs follow, and this one does not, with the setting that does what
    they say.
    """
    used = config.tracking.uri or "SQLite in the storage"
    notes = []
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and uri.rstrip("/") != (config.tracking.uri or "").rstrip("/"):
        notes.append(
            f"MLFLOW_TRACKING_URI is not used: runs go to {credentials.mask(used)}; "
            'tracking.uri="$MLFLOW_TRACKING_URI" takes it'
        )
    registry = os.environ.get("MLFLOW_REGISTRY_URI")
    if registry and registry.rstrip("/") != (config.tracking.uri or "").rstrip("/"):
        notes.append(
            "MLFLOW_REGISTRY_URI is not used: models are registered where runs go, see tracking.uri"
        )
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    used_experiment = (
        f"tracking.experiment={config.tracking.experiment}"
        if config.tracking.experiment
        else "the task's experiment"
    )
    if experiment and experiment != config.tracking.experiment:
        remedy = 'tracking.experiment="$MLFLOW_EXPERIMENT_NAME" takes it'
        notes.append(f"MLFLOW_EXPERIMENT_NAME is not used: runs go to {used_experiment}; {remedy}")
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        if os.environ.get(name):
            notes.append(
                f"{name} is not used: each sweep and trial has a run of its own in "
                f"{used_experiment}"
            )
    if os.environ.get("RAY_ADDRESS") and config.cluster.kind == "local":
        notes.append(
            "RAY_ADDRESS is not used: cluster=local starts a Ray of its own; cluster=attached "
            "cluster.address=... joins one"
        )
    return notes
