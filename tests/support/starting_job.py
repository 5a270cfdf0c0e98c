"""A job whose cluster starts, and what an API server says of it: the RayJob, its pods, events."""

from __future__ import annotations

from typing import Any

from orchestrator.config.cluster import Cluster
from orchestrator.kuberay.status import StatusReporter

HEAD, WORKER, SPOT = (
    "train-abcde-head-h2h2h",
    "train-abcde-workers-worker-w2w2w",
    "train-abcde-spot-worker-s2s2s",
)
NO_ROOM = "0/3 nodes are available: 3 Insufficient memory"


def story(**cluster: Any) -> StatusReporter:
    """A job whose cluster starts."""
    made = StatusReporter("train", Cluster(namespace="slm", **cluster))
    made.rayjob(job("Initializing"))
    return made


def job(
    deployment: str, state: str = "", conditions: list[dict[str, str]] | None = None, **status: Any
) -> dict[str, Any]:
    """A RayJob in a phase."""
    status = {
        "jobDeploymentStatus": deployment,
        "jobStatus": state,
        "rayClusterName": "train-abcde",
        "startTime": "2026-11-23T17:00:00Z",
        **status,
    }
    return {
        "metadata": {"name": "train", "uid": "1", "creationTimestamp": "2026-11-23T17:00:00Z"},
        "status": {**status, "rayClusterStatus": {"conditions": conditions or []}},
    }


def pod(
    name: str, scheduled: bool | None = None, waiting: str | None = None, phase: str = "Pending"
) -> dict[str, Any]:
    """A pod that has a node, has none, or whose container waits."""
    reason = {} if scheduled else {"reason": "Unschedulable", "message": NO_ROOM}
    conditions = (
        [] if scheduled is None else [{"type": "PodScheduled", "status": str(scheduled), **reason}]
    )
    state = (
        {"waiting": {"reason": waiting, "message": f'Back-off pulling image "{name}"'}}
        if waiting
        else {"running": {}}
    )
    return {
        "metadata": {"name": name, "labels": {}},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"name": "ray", "state": state}],
        },
    }


def event(
    about: str, reason: str, message: str, when: str = "2026-11-23T17:00:05Z", kind: str = "Pod"
) -> dict[str, Any]:
    """A warning about an object."""
    return {
        "involvedObject": {"kind": kind, "name": about},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "eventTime": when,
    }
