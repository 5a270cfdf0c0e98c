"""RayJobs of this program as they stand on the cluster: found, put into a word, looked up by name.
Changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.files.json_types import JsonObject
from orchestrator.config.cluster import NAMESPACE, Cluster
from orchestrator.errors import InputError
from orchestrator.kuberay.client import RAYJOBS, Client
from orchestrator.kuberay.names import MANAGED, PREFIX, QUEUE, SWEEP, SWEEP_NAME
from orchestrator.kuberay.outcome import outcome_of
from orchestrator.kuberay.reasons import clean
from orchestrator.kuberay.status import StatusReporter
from orchestrator.output import run_commands

Job = JsonObject


@dataclass(frozen=True)
class Entry:
    """One RayJob of this program."""

    name: str
    sweep: str
    state: str
    """queued, starting, running, stopped, finished, failed, refused, overdue, unplaced, lost or
    deleting.
    """
    reason: str | None
    started: str | None
    """UTC, of the present attempt."""
    ended: str | None
    where: str
    """Namespace, and the context where one was chosen."""


def jobs(client: Client, sweep: str | None = None) -> list[Job]:
    """RayJobs of this program, newest first."""
    selector = ",".join(
        [
            *(f"{key}={value}" for key, value in MANAGED.items()),
            *([f"{SWEEP}={sweep}"] if sweep else []),
        ]
    )
    items, _ = client.items(RAYJOBS, {"labelSelector": selector})
    return sorted(
        items,
        key=lambda job: (job["metadata"].get("creationTimestamp", ""), job["metadata"]["name"]),
        reverse=True,
    )


def has_ended(job: Job) -> bool:
    """Whether a RayJob will do no more work: ended, on its way out, or suspended by someone."""
    return state_of(job)[0] not in ("queued", "starting", "running")


def state_of(job: Job) -> tuple[str, str | None]:
    """One word for a RayJob's state, and the reason where it did not go well."""
    status = job.get("status") or {}
    metadata = job["metadata"]
    story = StatusReporter(metadata["name"], Cluster(namespace=metadata["namespace"]))
    if metadata.get("deletionTimestamp"):
        return "deleting", None
    end = outcome_of(job, story)
    if end is not None:
        return end.state, None if end.code == 0 else clean(status.get("message", "")) or status.get(
            "reason"
        )
    if (job.get("spec") or {}).get("suspend"):
        return ("queued", None) if QUEUE in metadata.get("labels", {}) else ("stopped", None)
    return ("running" if status.get("jobDeploymentStatus") == "Running" else "starting"), None


def entry(job: Job, cluster: Cluster) -> Entry:
    """A RayJob as a line of `runs list`."""
    status = job.get("status") or {}
    metadata = job["metadata"]
    state, reason = state_of(job)
    where = f"{metadata['namespace']}" + (f" ({cluster.context})" if cluster.context else "")
    return Entry(
        metadata["name"],
        sweep_name_of(job),
        state,
        reason,
        status.get("startTime"),
        status.get("endTime"),
        where,
    )


def sweep_name_of(job: Job) -> str:
    """The name of a RayJob's sweep: its own, where it is known, and otherwise the one that the
    RayJob was named by.
    """
    metadata = job["metadata"]
    return (metadata.get("annotations") or {}).get(SWEEP_NAME) or (
        metadata.get("labels") or {}
    ).get(SWEEP, "")


def named(client: Client, name: str) -> Job:
    """The RayJob `name`, or the newest of the sweep `name`. Raises InputError where there is
    none.
    """
    job = (
        client.find(RAYJOBS, name) if re.fullmatch(NAMESPACE, name) else None
    )  # all else would be no name in a path
    if job is None:
        all_jobs = jobs(client)
        job = next(
            (
                job
                for job in all_jobs
                if name in (sweep_name_of(job), job["metadata"]["labels"].get(SWEEP))
            ),
            None,
        )
    if (
        job is None
        or (job["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") != PREFIX
    ):
        listed = run_commands.on_cluster("list", None, client.cluster)
        raise InputError(f"{name}: no RayJob or sweep of this program there; see: {listed}")
    return job
