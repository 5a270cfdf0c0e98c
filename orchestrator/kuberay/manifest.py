"""The RayJob of one command: a pure function of the settings, compared whole with golden files.

Owns the shape of the manifest. How it is named and found again is names.py's, what the API server
does not check is check.py's.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from typing import Any

import yaml

from jobs.files.json_types import JsonObject
from orchestrator import job_environment
from orchestrator.config.cluster import Cluster
from orchestrator.config.settings import Config
from orchestrator.kuberay.names import (
    COMMAND,
    JOB,
    LOG_CONTAINER,
    MANAGED,
    QUEUE,
    SUBMISSION,
    SWEEP,
    SWEEP_NAME,
    sweep_of,
)

LOGS = "/tmp/ray"
UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "": 1,
}
STORE_SHARE = 0.8
"""Part of the shared memory for Ray's object store; the rest is for NCCL and data loaders."""
FOLLOW_LOG = f"""trap '[ -n "$reader" ] && kill "$reader"; exit 0' TERM INT
file= reader=
while true; do
  newest=`ls -t {LOGS}/session_latest/logs/job-driver-*.log 2>/dev/null | head -n 1`
  if [ -n "$newest" ] && [ "$newest" != "$file" ]; then
    [ -n "$reader" ] && kill "$reader"
    file=$newest
    tail -n +1 -F "$file" 2>/dev/null &
    reader=$!
  fi
  sleep 1
done
"""
"""Waits for the driver's log, writes it out, and goes over to the next one when the job is
submitted again. Kubernetes would read $(...) as a variable of its own, hence the backquotes.
"""


def size_bytes(quantity: str) -> float:
    """16Gi as bytes."""
    match = re.fullmatch(r"([\d.]+)([A-Za-z]*)", quantity)
    assert match is not None
    return float(match[1]) * UNITS[match[2]]


def entrypoint(cluster: Cluster, arguments: list[str]) -> str:
    """The command as one shell word after another: bash on the head reads it, so every argument is
    quoted. env changes the folder.
    """
    return shlex.join(
        ["env", f"--chdir={cluster.folder}", "python", "-m", "orchestrator", *arguments]
    )


def make(
    config: Config,
    name: str,
    arguments: list[str],
    submission: str,
    typed: str = "",
    sweep: str = "",
) -> JsonObject:
    """The RayJob `name` that runs `python -m orchestrator` with `arguments` on a cluster of its
    own.

    `submission` tells this submission from others of the same sweep; it stays the same over the
    operator's retries. `typed` are the settings as the user typed them, for the commands that the
    result suggests. `sweep` is the sweep's own name, where it is known.
    """
    cluster = config.cluster
    command = (
        f"python -m orchestrator {typed}"
        if typed
        else shlex.join(["python", "-m", "orchestrator", *arguments])
    )
    job: JsonObject = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": job_labels(cluster, name),
            "annotations": {
                COMMAND: command,
                SUBMISSION: submission,
                **({SWEEP_NAME: sweep} if sweep else {}),
            },
        },
        "spec": {
            # No second pod that follows the log and fails the job when it loses it, and no shell
            # between operator and head.
            "submissionMode": "HTTPMode",
            "entrypoint": entrypoint(cluster, arguments),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": cluster.ttl_seconds,
            "activeDeadlineSeconds": cluster.active_deadline_seconds,
            "preRunningDeadlineSeconds": cluster.wait_seconds,
            "backoffLimit": cluster.retries,
            "rayClusterSpec": ray_cluster(cluster, name, submission),
        },
    }
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] += [
        {"name": key, "value": value} for key, value in told_to_head(cluster, name, typed).items()
    ]
    return job


def told_to_head(cluster: Cluster, name: str, typed: str) -> dict[str, str]:
    """What the command on the cluster cannot know of its RayJob otherwise."""
    variables = {job_environment.JOB: name, job_environment.WORKERS: asked_workers(cluster)}
    if cluster.retries:
        variables[job_environment.RETRIED] = "true"
    if typed:
        variables[job_environment.TYPED] = typed.replace("$(", "$$(")  # $(NAME) is Kubernetes' own
    return variables


def asked_workers(cluster: Cluster) -> str:
    """How many workers come by themselves and, where the autoscaler may add some, how many there
    may be: 3, or 2-8.
    """
    spot = cluster.spot_workers
    most = most_workers(cluster)
    return f"{cluster.workers}-{most + spot}" if scales(cluster) else str(cluster.workers + spot)


def job_labels(cluster: Cluster, name: str) -> dict[str, str]:
    """What the RayJob is found by, and what Kueue goes by."""
    labels = {**MANAGED, SWEEP: sweep_of(name)}
    if cluster.queue is not None:
        labels[QUEUE] = cluster.queue
    if cluster.priority is not None:
        labels["kueue.x-k8s.io/priority-class"] = cluster.priority
    return labels


def ray_cluster(cluster: Cluster, name: str, submission: str) -> JsonObject:
    """The cluster that the job brings along."""
    spec: JsonObject = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", "secretName": cluster.token_secret},
        "enableInTreeAutoscaling": scales(cluster),
    }
    if scales(cluster):
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 120,
            "resources": amounts("500m", "1Gi"),
            # The operator adds this container itself; without these a namespace with Pod Security
            # refuses the head.
            "securityContext": container_security(),
            "env": [{"name": "HOME", "value": "/tmp"}],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        }
    spec["headGroupSpec"] = {
        "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", **store(cluster)},
        "template": template(cluster, name, submission, head=True),
    }
    spec["workerGroupSpecs"] = workers(cluster, name, submission)
    return spec


def scales(cluster: Cluster) -> bool:
    """Whether the autoscaler may add worker pods."""
    return most_workers(cluster) > cluster.workers


def most_workers(cluster: Cluster) -> int:
    """On-demand worker pods at most."""
    return cluster.workers if cluster.max_workers is None else cluster.max_workers


def workers(cluster: Cluster, name: str, submission: str) -> list[JsonObject]:
    """The groups of worker pods: on demand, and on spot nodes."""
    groups = []
    counts = {
        "workers": (cluster.workers, most_workers(cluster)),
        "spot": (cluster.spot_workers, cluster.spot_workers),
    }
    for group, (replicas, most) in counts.items():
        if most > 0:
            groups.append(
                {
                    "groupName": group,
                    "replicas": replicas,
                    "minReplicas": 0 if group == "spot" and scales(cluster) else replicas,
                    "maxReplicas": most,
                    "rayStartParams": store(cluster),
                    "template": template(
                        cluster, name, submission, head=False, spot=group == "spot"
                    ),
                }
            )
    return groups


def store(cluster: Cluster) -> dict[str, str]:
    """Ray's object store kept inside the pod's shared memory; a larger one would move to disk."""
    return {"object-store-memory": str(int(size_bytes(cluster.shm_memory) * STORE_SHARE))}


def template(
    cluster: Cluster, name: str, submission: str, head: bool, spot: bool = False
) -> JsonObject:
    """One kind of pod, within Pod Security's `restricted`."""
    gpus = 0 if head else cluster.worker_gpus
    resources = (
        amounts(str(cluster.head_cpus), cluster.head_memory)
        if head
        else amounts(str(cluster.worker_cpus), cluster.worker_memory)
    )
    if gpus:
        resources = {
            kind: {**amount, "nvidia.com/gpu": str(gpus)} for kind, amount in resources.items()
        }
    containers = [
        ray_container(cluster, submission, "ray-head" if head else "ray-worker", resources)
    ]
    spec: JsonObject = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {**POD_SECURITY},
        "containers": containers,
        "volumes": volumes(cluster),
    }
    if head:
        containers.append(log_container(cluster))
        spec["automountServiceAccountToken"] = scales(cluster)
    if not (head and scales(cluster)):
        # An autoscaling head gets a service account of its own from the operator, with the right to
        # make pods; workers never share it.
        spec["serviceAccountName"] = cluster.service_account
    if head:
        selector = {}
    elif spot:
        selector = cluster.spot_selector
    else:
        selector = cluster.worker_selector
    if selector:
        spec["nodeSelector"] = dict(selector)
    tolerated = (
        [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if gpus else []
    )
    tolerated += [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for key, value in selector.items()
        if spot
    ]
    if tolerated:
        spec["tolerations"] = tolerated
    return {"metadata": {"labels": {**MANAGED, SWEEP: sweep_of(name), JOB: name}}, "spec": spec}


POD_SECURITY = {
    # The user and group of the public Ray images.
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 100,
    "fsGroup": 100,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container_security() -> JsonObject:
    """What `restricted` asks of a container, and a root file system that nothing writes to."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def amounts(cpu: str, memory: str) -> dict[str, dict[str, str]]:
    """Requests equal to limits, which keeps a pod from being the first to be evicted."""
    return {kind: {"cpu": cpu, "memory": memory} for kind in ("requests", "limits")}


def ray_container(
    cluster: Cluster, submission: str, name: str, resources: JsonObject
) -> JsonObject:
    """The container that Ray runs in."""
    variables = {
        "HOME": "/tmp",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        job_environment.SUBMISSION: submission,
    }
    mounts = [("tmp", "/tmp"), ("ray-logs", LOGS), ("shared-memory", "/dev/shm")]
    if cluster.claim is not None:
        variables["ORCHESTRATOR_CACHE"] = f"{cluster.mount.rstrip('/')}/cache"
        mounts.append(("shared", cluster.mount))
    container: JsonObject = {
        "name": name,
        "image": cluster.image,
        "workingDir": cluster.folder,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts],
    }
    if cluster.environment_secrets:
        container["envFrom"] = [
            {"secretRef": {"name": secret}} for secret in cluster.environment_secrets
        ]
    return container


def log_container(cluster: Cluster) -> JsonObject:
    """Writes the driver's log where `pods/log` finds it: whoever submits needs no way to the
    dashboard.
    """
    return {
        "name": LOG_CONTAINER,
        "image": cluster.image,
        "command": ["bash", "-c", FOLLOW_LOG],
        "resources": amounts("50m", "64Mi"),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "ray-logs", "mountPath": LOGS, "readOnly": True}],
    }


def volumes(cluster: Cluster) -> list[JsonObject]:
    """Folders that pods may write to. The operator's autoscaler container looks for one by the name
    ray-logs.
    """
    volumes_of_pod: list[JsonObject] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "ray-logs", "emptyDir": {}},
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm_memory},
        },
    ]
    if cluster.claim is not None:
        volumes_of_pod.append(
            {"name": "shared", "persistentVolumeClaim": {"claimName": cluster.claim}}
        )
    return volumes_of_pod


class Readable(yaml.SafeDumper):
    """YAML as a person would write it: no references, and scripts line by line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    """A text of several lines as a block."""
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )


Readable.add_representer(str, text)


def as_yaml(job: JsonObject) -> str:
    """The manifest as `kubectl create -f -` takes it."""
    return yaml.dump(job, Dumper=Readable, sort_keys=False, allow_unicode=True, width=10_000)
