"""The RayJobs of a namespace, listed and shown."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable

from jobs.files.json_types import JsonObject
from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError
from orchestrator.kuberay import rayjobs, timeouts
from orchestrator.kuberay.client import EVENTS, PODS, RAYCLUSTERS, Client
from orchestrator.kuberay.names import (
    COMMAND,
    JOB,
    LOG_CONTAINER,
    QUEUE,
    SUBMISSION,
)
from orchestrator.kuberay.pods import driver_pod
from orchestrator.kuberay.rayjobs import Entry, Job, entry, has_ended, jobs
from orchestrator.kuberay.responses import Expired, Refusal, Unreachable
from orchestrator.kuberay.status import StatusReporter
from orchestrator.output import run_commands
from orchestrator.output.log_summary import sweep_told


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_with_flags(text: str) -> None:
    """The same to someone who gives flags, not settings."""
    say(run_commands.as_flags(text))


def connect(cluster: Cluster, follows: bool = False, tell: Callable[[str], None] = say) -> Client:
    """A client that has reached its API server. Raises InputError where there is no way to it."""
    client = Client(cluster, timeouts.DEFAULT.patience_seconds, tell)
    client.doubt_seconds = timeouts.DEFAULT.doubt_seconds
    try:
        client.reads_logs = client.allowed("get", "pods", subresource="log")
        if not client.reads_logs and follows:
            say("note     the driver's log will not be shown: this identity may not read pods/log")
    except Unreachable as error:
        raise InputError(str(error)) from error
    return client


def as_submitted(cluster: Cluster, job: Job) -> Cluster:
    """The settings that the RayJob was made with, where they matter for following it."""
    spec = job.get("spec") or {}
    labels = job["metadata"].get("labels") or {}
    return dataclasses.replace(
        cluster,
        queue=labels.get(QUEUE),
        retries=spec.get("backoffLimit", 0),
        wait_seconds=spec.get("preRunningDeadlineSeconds") or cluster.wait_seconds,
        active_deadline_seconds=spec.get("activeDeadlineSeconds")
        or cluster.active_deadline_seconds,
        ttl_seconds=spec.get("ttlSecondsAfterFinished", cluster.ttl_seconds),
    )


def listed(cluster: Cluster) -> list[Entry]:
    """Every RayJob of this program in the namespace, newest first. Raises InputError where there is
    no such namespace: it lists as an empty one does.
    """
    client = connect(cluster, tell=say_with_flags)
    rayjobs_here = jobs(client)
    with contextlib.suppress(Refusal):  # not all may look at namespaces
        if (
            not rayjobs_here
            and client.find("/api/v1/namespaces", client.namespace, patience_seconds=0) is None
        ):
            raise InputError(
                f"{client.where} has no namespace {client.namespace}; is it the right one: "
                "--context NAME?"
            )
    return [entry(job, cluster) for job in rayjobs_here]


def logs(cluster: Cluster, names: list[str]) -> dict[str, str]:
    """What the drivers of these RayJobs have printed so far, by name; those whose pods are gone, or
    may not be read, are left out.
    """
    return drivers_logs(connect(cluster, tell=say_with_flags), names)


def drivers_logs(client: Client, names: list[str]) -> dict[str, str]:
    """The same by a client that is there."""
    log_by_job = {}
    with contextlib.suppress(Refusal, Unreachable):
        pods, _ = client.items(PODS, {"labelSelector": JOB}, patience_seconds=0)
        drivers = {
            pod["metadata"]["labels"][JOB]: driver for pod in pods if (driver := driver_pod(pod))
        }
        for name in drivers.keys() & set(names):
            with contextlib.suppress(Refusal, Unreachable):
                log_by_job[name] = "\n".join(
                    line for line in client.log(drivers[name], LOG_CONTAINER, follow=False) if line
                )
    return log_by_job


def named(client: Client, name: str) -> Job:
    """The RayJob `name`, or the newest of the sweep `name`, by what its driver has told where
    nobody was there to write it down.

    Raises InputError where there is none.
    """
    try:
        return rayjobs.named(client, name)
    except InputError:
        job_by_name = {job["metadata"]["name"]: job for job in jobs(client)}
        names_by_log = {
            job
            for job, log in drivers_logs(client, [*job_by_name]).items()
            if sweep_told(log) == name
        }
        if not names_by_log:
            raise
        return next(job for key, job in job_by_name.items() if key in names_by_log)


@dataclasses.dataclass(frozen=True)
class Located:
    """What leads to the storage of a RayJob."""

    name: str
    sweep: str
    state: str
    entrypoint: str
    submission: str | None


def find(cluster: Cluster, name: str) -> Located:
    """The RayJob of a name, or of a sweep. Raises InputError without one."""
    job = named(connect(cluster, tell=say_with_flags), name)
    told = entry(job, cluster)
    entrypoint = str((job.get("spec") or {}).get("entrypoint", ""))
    submission = (job["metadata"].get("annotations") or {}).get(SUBMISSION)
    return Located(told.name, told.sweep, told.state, entrypoint, submission)


def head_pod(cluster: Cluster, name: str) -> str | None:
    """The head pod of a RayJob that runs now; None without one."""
    client = connect(cluster, tell=say_with_flags)
    pods, _ = client.items(PODS, {"labelSelector": f"{JOB}={name}"})
    for pod in pods:
        is_head = pod["metadata"].get("labels", {}).get("ray.io/node-type") == "head"
        if is_head and (pod.get("status") or {}).get("phase") == "Running":
            return pod["metadata"]["name"]
    return None


def show(cluster: Cluster, name: str) -> JsonObject:
    """Everything known of a RayJob: its Entry, the command, the attempts, the cluster with its
    pods, and what it waits for.
    """
    client = connect(cluster, tell=say_with_flags)
    job = named(client, name)
    status = job.get("status") or {}
    metadata = job["metadata"]
    story = StatusReporter(metadata["name"], as_submitted(cluster, job))
    pods, _ = client.items(PODS, {"labelSelector": f"{JOB}={metadata['name']}"})
    story.holds = True
    story.rayjob(job)
    for pod in pods:
        story.pod(pod)
    with contextlib.suppress(Refusal, Unreachable, Expired):
        for event in client.items(EVENTS, patience_seconds=0)[0]:
            story.event(event)
    ray_cluster = status.get("rayClusterName")
    gone = ray_cluster is not None and client.find(RAYCLUSTERS, ray_cluster) is None
    holds_pods = bool(pods) and not gone and has_ended(job)
    return {
        **dataclasses.asdict(entry(job, cluster)),
        "command": metadata.get("annotations", {}).get(COMMAND),
        "attempts": status.get("failed", 0) + status.get("succeeded", 0),
        "ray_cluster": f"{ray_cluster} (gone)" if gone else ray_cluster,
        "pods": {pod["metadata"]["name"]: (pod.get("status") or {}).get("phase") for pod in pods},
        "waits_for": story.waits_for or None,
        "free_the_pods": run_commands.on_cluster("delete", metadata["name"], cluster)
        if holds_pods
        else None,
    }
