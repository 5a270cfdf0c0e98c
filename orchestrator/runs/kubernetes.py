"""RayJobs of a namespace."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError
from orchestrator.output import run_commands
from orchestrator.output.log_summary import last_lines
from orchestrator.runs.local_storage import NUM_LOG_LINES, NUM_LOGS, of_log

LIVE = ("queued", "starting", "running")
"""States of a RayJob that still does something, or will."""


class KubeRayRuns:
    """RayJobs that were submitted to a namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def listed(self) -> list[dict[str, Any]]:
        """See runs.Place."""
        from orchestrator.kuberay import overview

        entries = overview.listed(self.cluster)
        logs = overview.logs(self.cluster, [entry.name for entry in entries[:NUM_LOGS]])
        return [self.record(entry, logs.get(entry.name, "")) for entry in entries]

    def record(self, entry: Any, log: str) -> dict[str, Any]:
        """A RayJob in the terms of runs.COLUMNS."""
        fields = {key: getattr(entry, key) for key in ("name", "state", "where")}
        times = {"started": moment(entry.started), "ended": moment(entry.ended)}
        return (
            fields
            | of_log(fields["state"], entry.sweep, log)
            | times
            | {"command": None, "error": entry.reason}
        )

    def show(self, name: str) -> dict[str, Any]:
        """See runs.Place."""
        from orchestrator.kuberay import overview

        rayjob = overview.show(self.cluster, name)
        log = overview.logs(self.cluster, [rayjob["name"]]).get(rayjob["name"], "")
        return (
            rayjob
            | of_log(rayjob["state"], rayjob["sweep"], log)
            | {"log": last_lines(log, NUM_LOG_LINES)}
        )

    def watch(self, name: str) -> int:
        """See runs.Place."""
        from orchestrator.kuberay import submit

        return submit.watch(self.cluster, name)

    def stop(self, name: str) -> str:
        """See runs.Place."""
        from orchestrator.kuberay import submit

        return submit.stop(self.cluster, name)

    def delete(self, name: str) -> str:
        """See runs.Place."""
        from orchestrator.kuberay import overview, submit

        rayjob = overview.show(self.cluster, name)
        if rayjob["state"] in LIVE:
            stop = run_commands.on_cluster("stop", rayjob["name"], self.cluster)
            raise InputError(f"{rayjob['name']} is {rayjob['state']}; stop it first: {stop}")
        return submit.delete(self.cluster, rayjob["name"])


def moment(text: str | None) -> float | None:
    """A time of Kubernetes, in UTC, as seconds since the epoch."""
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
