"""RayJobs in the stand-in for an API server: those that there are, and one of another submission."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.kuberay import manifest
from orchestrator.kuberay.names import sweep_name
from tests.support.apiserver import ApiServer
from tests.support.kuberay import ARGUMENTS, settings

ANSWER = '{"sweep": "lora-7f3a91", "score": 0.5}'
SWEEP_NAME = sweep_name(settings(), ARGUMENTS, None)


def names(api: ApiServer) -> list[str]:
    """The RayJobs that there are."""
    return sorted(name for kind, name in api.things if kind == "rayjobs")


def posts(api: ApiServer) -> int:
    """How often a RayJob was sent."""
    return sum(request.startswith("POST") and "/rayjobs" in request for request in api.requests)


def until(condition: Any, seconds: float = 120.0) -> None:
    """Wait for something that comes within moments on a machine that has nothing else to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come within {seconds} s"
        time.sleep(0.02)


def phase(api: ApiServer, name: str) -> str:
    """jobDeploymentStatus of a RayJob."""
    return api.job(name).get("status", {}).get("jobDeploymentStatus", "")


def other(name: str, **labels: str) -> dict[str, Any]:
    """A RayJob of another submission."""
    job = manifest.make(settings(), name, ARGUMENTS, "another-key")
    job["metadata"] |= {"uid": f"uid-{name}", "creationTimestamp": "2026-11-23T16:00:00Z"}
    job["metadata"]["labels"] |= labels
    return job
