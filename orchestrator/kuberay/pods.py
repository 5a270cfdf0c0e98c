"""What a pod's status says."""

from __future__ import annotations

import re

from jobs.files.json_types import JsonObject
from orchestrator.kuberay.names import LOG_CONTAINER
from orchestrator.kuberay.reasons import COLOUR

Thing = JsonObject


def is_placed(pod: Thing) -> bool:
    """Whether a pod has a node."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(
        entry["type"] == "PodScheduled" and entry.get("status") == "True" for entry in conditions
    ) or has_started(pod)


def has_started(pod: Thing) -> bool:
    """Whether all containers of a pod have been started."""
    return (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")


def summary(status: Thing) -> str:
    """Reason and first sentence of a status' message."""
    message = (
        re.sub(COLOUR, "", status.get("message", ""))
        .split(", last available logs")[0]
        .split("\n")[0]
    )
    return f"{status.get('reason', 'no reason given')}: {message}"


def driver_pod(pod: Thing) -> str | None:
    """Name of a head pod whose log container has something to say, or None."""
    if pod["metadata"].get("labels", {}).get("ray.io/node-type") != "head":
        return None
    states = {
        entry["name"]: entry.get("state") or {}
        for entry in (pod.get("status") or {}).get("containerStatuses") or []
    }
    return (
        pod["metadata"]["name"]
        if {"running", "terminated"} & set(states.get(LOG_CONTAINER, {}))
        else None
    )
