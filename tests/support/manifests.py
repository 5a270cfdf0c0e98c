"""What the tests of k8s/ share: the objects that a folder, or a choice of components, builds to."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.policy import Manifest

K8S = Path(__file__).resolve().parents[2] / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
COMPONENTS = sorted(folder.name for folder in (K8S / "components").iterdir())
CORE = ("base", "mlflow")
TOGETHER = ("cluster", "gpu", "spot", "autoscaling", "redis", "s3", "submitter")
"""All components that go together; kueue and autoscaling do not."""
EVERYTHING = "+" + "+".join(TOGETHER)
BUILDS = (
    *("overlays/dev", "overlays/prod", *CORE),
    *(f"+{name}" for name in COMPONENTS),
    *(f"+cluster+{name}" for name in COMPONENTS if name != "cluster"),
    EVERYTHING,
)
SECRETS = {
    "mlflow-database": {"uri", "password"},
    "ray-token": {"auth_token"},
    "redis": {"password"},
    "object-store": {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "MLFLOW_ARTIFACTS_DESTINATION",
    },
}
"""What the user makes, by k8s/README.md: the keys of each secret."""


def kustomize(folder: Path) -> str:
    """What kubectl makes of a folder."""
    done = subprocess.run(
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(name: str) -> list[Manifest]:
    """The objects of a folder of k8s/, or of components on top of base and MLflow: "+gpu+spot"."""
    return copy.deepcopy(_build(name))


@functools.cache
def _build(name: str) -> list[Manifest]:
    if not name.startswith("+"):
        return list(yaml.safe_load_all(kustomize(K8S / name)))
    with tempfile.TemporaryDirectory() as folder:
        real = os.path.realpath(folder)
        parts = {
            "resources": CORE,
            "components": [f"components/{part}" for part in name[1:].split("+")],
        }
        text = {
            key: [os.path.relpath(K8S / part, real) for part in value]
            for key, value in parts.items()
        }
        (Path(real) / "kustomization.yaml").write_text(yaml.safe_dump(text))
        return list(yaml.safe_load_all(kustomize(Path(real))))


def named(objects: list[Manifest], kind: str) -> dict[str, Manifest]:
    """The objects of one kind by name."""
    return {
        manifest["metadata"]["name"]: manifest for manifest in objects if manifest["kind"] == kind
    }


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)
