"""What the tests of orchestrator/kuberay share: settings of four clusters, and the strict reading
of a manifest against a CRD.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.workers.packed_trial import put
from orchestrator.config.compose import compose
from orchestrator.config.settings import Config
from orchestrator.kuberay import timeouts
from orchestrator.kuberay.timeouts import Timeouts
from tests.support.apiserver import ApiServer
from tests.support.conversation import TOKEN
from tests.support.settings import build

DIGEST = "registry.example.com/slm@sha256:" + "0123456789abcdef" * 4
SHARED = (
    "cluster.claim=shared",
    "storage=/mnt/shared/outputs",
    "tracking.uri=http://mlflow.slm.svc:5000",
)
ARGUMENTS = [
    "+sweep=lora",
    "model=tiny",
    "storage=/mnt/shared/outputs",
    "cluster=attached",
    "cluster.address=auto",
]
SETTINGS = {
    "cpu": (),
    "gpu": (
        "cluster.worker_gpus=1",
        "cluster.workers=2",
        "cluster.max_workers=8",
        "cluster.worker_selector={gpu.class: a100}",
    ),
    "spot": (
        "cluster.spot_workers=3",
        "cluster.spot_selector={cloud.example.com/spot: 'true'}",
        "cluster.environment_secrets=[object-store, mlflow]",
    ),
    "kueue": ("cluster.queue=team", "cluster.priority=high", "cluster.retries=2"),
}
"""Settings on top of SHARED, by the golden file that they make."""


@functools.cache
def usual() -> Config:
    """A checked configuration for cluster=kuberay with a claim and a tracking server."""
    fixed = (
        "+sweep=lora",
        "model=tiny",
        "cluster=kuberay",
        "cluster.namespace=slm",
        f"cluster.image={DIGEST}",
    )
    return build(compose([*fixed, *SHARED], None))


def settings(*arguments: str) -> Config:
    """The usual configuration with settings put over it, past the checks that all clusters
    share.
    """
    config = usual()
    for argument in arguments:
        path, _, text = argument.partition("=")
        config = put(config, path.split("."), yaml.safe_load(text))
    return config


def unknown_fields(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Paths of `value` that a CRD's schema does not know: what strict field validation refuses and
    the default drops silently.
    """
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        return [
            bad
            for index, item in enumerate(value)
            for bad in unknown_fields(item, schema.get("items", {}), f"{path}[{index}]")
        ]
    if not isinstance(value, dict):
        return []
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    found: list[str] = []
    for key, item in value.items():
        if properties is not None and key in properties:
            found += unknown_fields(item, properties[key], f"{path}.{key}")
        elif isinstance(others, dict):
            found += unknown_fields(item, others, f"{path}.{key}")
        elif not others and properties is not None:
            found.append(f"{path}.{key}")
    return found


QUICK = Timeouts(patience_seconds=1.5, doubt_seconds=2.0, settle_seconds=0.3)
"""The usual patience where only a dead machine uses it up; a test of what happens then shortens
it.
"""
Serve = Callable[..., ApiServer]


def impatient(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Shorten one more patience, in a test of what happens when it is used up."""
    monkeypatch.setattr(timeouts, "DEFAULT", dataclasses.replace(QUICK, **seconds))


def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """A fixture: `serve(scenario, ...)` starts a stand-in API server that the kubeconfig leads to,
    and makes the program impatient.
    """
    monkeypatch.setattr(timeouts, "DEFAULT", QUICK)
    for module in ("client", "watch"):
        monkeypatch.setattr(f"orchestrator.kuberay.{module}.FIRST_PAUSE_SECONDS", 0.1)
    with ExitStack() as stack:

        def start(scenario: str | None = None, token: str = TOKEN, **options: Any) -> ApiServer:
            api = stack.enter_context(ApiServer(scenario, **options))
            monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, token)))
            return api

        yield start


def numbered(count: int) -> list[str]:
    """Lines of a log that can be told apart."""
    return [f"line {number} of the log" for number in range(count)]


def is_deletion(entry: dict[str, Any]) -> bool:
    """Whether a recorded change is the end of the RayJob itself."""
    return entry["kind"] == "rayjobs" and "deletionTimestamp" in entry["object"]["metadata"]


def replaced(thing: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """An object with another text in its status."""
    status = thing.get("status", {})
    return (
        {**thing, "status": {**status, "message": status["message"].replace(old, new)}}
        if "message" in status
        else thing
    )
