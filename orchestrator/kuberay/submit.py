"""The story of cluster=kuberay: find the sweep's live RayJob or create one, follow it to its end;
and what `runs` does with RayJobs later.

Read this first. A submission has a key: when the answer to its creation is lost and the creation
repeated, the key tells that the RayJob found there is the same submission. A sweep that runs
already is followed, not started twice; an ended one gets a new RayJob, which continues from the
shared storage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from jobs.files.json_types import JsonObject
from orchestrator.config.cluster import Cluster
from orchestrator.config.settings import Config
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.kuberay import manifest, timeouts
from orchestrator.kuberay.client import RAYCLUSTERS, RAYJOBS, Client
from orchestrator.kuberay.follower import Follower
from orchestrator.kuberay.names import (
    QUEUE,
    SUBMISSION,
    SWEEP,
    job_name,
    sweep_name,
)
from orchestrator.kuberay.overview import as_submitted, connect, named, say, say_with_flags
from orchestrator.kuberay.rayjobs import Job, has_ended, jobs, state_of
from orchestrator.kuberay.reasons import clean
from orchestrator.kuberay.responses import Refusal, Unreachable
from orchestrator.output import run_commands
from orchestrator.plan.planner import Plan

MOST_TRIES = 20
GONE_SECONDS = 60.0
"""How long `delete` waits for a RayJob to be gone."""


def run(config: Config, arguments: list[str], plan: Plan | None, typed: str = "") -> int:
    """Run `python -m orchestrator` with `arguments` as a RayJob and follow it. Returns the exit
    code; raises OrchestratorError.

    0 finished, or accepted with cluster.detach; 1 the work failed or was lost; 2 refused; 130
    Ctrl-C, after which the job goes on.
    """
    cluster = config.cluster
    client = connect(cluster, follows=not cluster.detach)
    try:
        job = accepted(client, config, arguments, plan, typed)
        name = job["metadata"]["name"]
        if cluster.detach:
            say(ways_back(cluster, name))
            return 0
        return follow(client, as_submitted(cluster, job), name, config.output == "json")
    except KeyboardInterrupt:
        say(
            "interrupted while submitting; the same command again finds the job, if it was accepted"
        )
        return 130


def accepted(
    client: Client, config: Config, arguments: list[str], plan: Plan | None, typed: str
) -> Job:
    """The sweep's RayJob on the cluster: one that runs, or one that was made just now."""
    key = os.urandom(6).hex()
    sweep = sweep_name(config, arguments, plan.name if plan else None)
    own_name = plan.name if plan else ""
    for _ in range(MOST_TRIES):
        job_by_name = {job["metadata"]["name"]: job for job in jobs(client, sweep)}
        for job in job_by_name.values():
            if not has_ended(job):
                return running_already(job, config)
        submission_number = next(
            submission_number
            for submission_number in range(1, len(job_by_name) + 2)
            if job_name(sweep, submission_number) not in job_by_name
        )
        job = create(
            client,
            manifest.make(
                config, job_name(sweep, submission_number), arguments, key, typed, own_name
            ),
            sweep,
        )
        if job is not None:
            of_sweep = "" if own_name in ("", job["metadata"]["name"]) else f" of sweep {own_name}"
            say(
                f"accepted RayJob {client.namespace}/{job['metadata']['name']}{of_sweep} · "
                f"{asked_for(config.cluster)}"
            )
            return job
    raise OrchestratorError(
        f"RayJobs of sweep {sweep} come and go on the cluster, or one is being deleted: try again "
        "shortly; see: "
        f"{run_commands.on_cluster('list', None, config.cluster)}"
    )


def create(client: Client, body: Job, sweep: str) -> Job | None:
    """Send a RayJob. None where another submission of this sweep was faster: it is in the list now.
    Raises OrchestratorError.
    """
    name = body["metadata"]["name"]
    try:
        return client.create(RAYJOBS, body)
    except Unreachable as error:
        raise OrchestratorError(
            f"{error}\n  the job may have been accepted or not: the same command again finds it or "
            "sends it"
        ) from error
    except Refusal as refusal:
        if refusal.reason != "AlreadyExists":
            raise
    existing = client.find(RAYJOBS, name)
    if existing is None or existing["metadata"].get("labels", {}).get(SWEEP) == sweep:
        ours = (
            existing is not None
            and existing["metadata"]["annotations"].get(SUBMISSION)
            == body["metadata"]["annotations"][SUBMISSION]
        )
        return existing if ours else None
    raise InputError(
        f"a RayJob {name} that is not of this program is in the way; choose another name: "
        "sweep.name=NAME"
    )


def running_already(job: Job, config: Config) -> Job:
    """The live RayJob of the same sweep, to be followed. Raises InputError where this command is to
    begin anew.
    """
    name = job["metadata"]["name"]
    if config.fresh:
        raise InputError(
            f"fresh=true, and RayJob {name} of the same sweep runs; stop it "
            f"first:\n{ways_back(config.cluster, name)}"
        )
    consequence = (
        "nothing new is started"
        if config.cluster.detach
        else "following it, nothing new is started"
    )
    say(
        f"running  RayJob {config.cluster.namespace}/{name} of the same sweep already; "
        f"{consequence}"
    )
    return job


def asked_for(cluster: Cluster) -> str:
    """What is asked for, in a few words."""
    most = manifest.most_workers(cluster)
    counts = str(cluster.workers) if most == cluster.workers else f"{cluster.workers} to {most}"
    worker_size = f"{cluster.worker_cpus} CPU cores, {cluster.worker_memory}" + (
        f", {cluster.worker_gpus} GPUs" if cluster.worker_gpus else ""
    )
    spot = f" and {cluster.spot_workers} on spot nodes" if cluster.spot_workers else ""
    return f"{counts} workers{spot} of {worker_size}"


def follow(client: Client, cluster: Cluster, name: str, as_json: bool) -> int:
    """Follow a RayJob and say how it ended; Ctrl-C leaves it running."""
    client.patience_seconds = timeouts.DEFAULT.lost_seconds
    try:
        end = Follower(client, name, cluster, as_json, timeouts.DEFAULT, client.say).run()
    except KeyboardInterrupt:
        say(f"detached RayJob {client.namespace}/{name} goes on\n{ways_back(cluster, name)}")
        return 130
    client.say(end.text)
    return end.code


def ways_back(cluster: Cluster, name: str) -> str:
    """Commands for a job that goes on without us."""
    watch, stop = (run_commands.on_cluster(verb, name, cluster) for verb in ("watch", "stop"))
    return f"  follow it   {watch}\n  stop it     {stop}"


def preview(config: Config, arguments: list[str], plan: Plan | None, typed: str = "") -> JsonObject:
    """The manifest that would be sent. Asks no API server."""
    name = job_name(sweep_name(config, arguments, plan.name if plan else None), 1)
    return manifest.make(config, name, arguments, "0" * 12, typed, plan.name if plan else "")


def address_of(cluster: Cluster) -> str:
    """The Jobs API of the existing RayCluster `cluster.ray_cluster`. Raises InputError where there
    is none, or none that is ready.
    """
    client = connect(cluster)
    where = f"cluster.ray_cluster={cluster.ray_cluster}"
    ray_cluster = client.find(RAYCLUSTERS, cluster.ray_cluster or "")
    if ray_cluster is None:
        names = (
            ", ".join(sorted(item["metadata"]["name"] for item in client.items(RAYCLUSTERS)[0]))
            or "none"
        )
        raise InputError(
            f"{where}: no such RayCluster in namespace {client.namespace}; there are: {names}"
        )
    status = ray_cluster.get("status") or {}
    service = (status.get("head") or {}).get("serviceName")
    if status.get("state") != "ready" or not service:
        reasons = [
            f"{entry['reason']} {clean(entry.get('message', ''))}".strip()
            for entry in status.get("conditions", [])
            if stands_out(entry)
        ]
        raise InputError(
            f"{where} is not ready "
            f"({status.get('state') or 'no state yet'})"
            f"{': ' if reasons else ''}{'; '.join(reasons)}"
        )
    return f"http://{service}.{client.namespace}.svc:8265"


def stands_out(condition: Job) -> bool:
    """Whether a condition says what is wrong."""
    wanted = "False" if condition["type"] in ("HeadPodReady", "RayClusterProvisioned") else "True"
    return condition["status"] == wanted and condition["type"] in (
        "HeadPodReady",
        "RayClusterProvisioned",
        "ReplicaFailure",
    )


def watch(cluster: Cluster, name: str, output: str = "text") -> int:
    """Come back to a RayJob and follow it; the exit code is that of `run`. What is told names
    flags, since `runs` takes no settings.
    """
    client = connect(cluster, True, say_with_flags)
    job = named(client, name)
    return follow(client, as_submitted(cluster, job), job["metadata"]["name"], output == "json")


def stop(cluster: Cluster, name: str) -> str:
    """Take the cluster down and keep the RayJob, suspended; says what was done. Under Kueue, which
    would start it again, delete it.
    """
    client = connect(cluster, tell=say_with_flags)
    job = named(client, name)
    name = job["metadata"]["name"]
    if has_ended(job):
        return f"{name} runs no more ({state_of(job)[0]})"
    if QUEUE in job["metadata"].get("labels", {}):
        return f"Kueue would start a suspended job again, so it is deleted\n{remove(client, name)}"
    client.patch(RAYJOBS, name, {"spec": {"suspend": True}})
    return (
        f"stopped {name}; the operator ends its pods now. What is finished stays in the storage: "
        "the same command again continues it"
    )


def delete(cluster: Cluster, name: str) -> str:
    """Delete a RayJob with its cluster and wait until it is gone. Raises OrchestratorError when it
    stays.
    """
    client = connect(cluster, tell=say_with_flags)
    return remove(client, named(client, name)["metadata"]["name"])


def remove(client: Client, name: str, seconds: Callable[[], float] = time.monotonic) -> str:
    """Delete one RayJob."""
    client.delete(RAYJOBS, name)
    deadline = seconds() + GONE_SECONDS
    while (job := client.find(RAYJOBS, name)) is not None:
        if seconds() > deadline:
            finalizers = ", ".join(job["metadata"].get("finalizers", [])) or "nothing that is shown"
            raise OrchestratorError(
                f"{name} is marked for deletion and still there after {GONE_SECONDS:.0f} s; held "
                f"by: {finalizers}"
                "\n  ray.io/rayjob-finalizer is the KubeRay operator's: is one running that "
                f"watches namespace {client.namespace}?"
            )
        time.sleep(0.5)
    return f"deleted {name} and its cluster; what is finished stays in the storage"
