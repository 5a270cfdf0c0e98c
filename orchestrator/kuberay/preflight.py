"""What would go wrong on the cluster and neither the API server nor the operator says in time:
found before anything is sent. Pure.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from jobs.files import filesystem
from orchestrator import project
from orchestrator.config.cluster import Cluster
from orchestrator.config.settings import Config
from orchestrator.kuberay.manifest import entrypoint, most_workers, scales, size_bytes
from orchestrator.kuberay.names import LONGEST_SWEEP
from orchestrator.remote import code_archive
from orchestrator.storage import staging
from orchestrator.tracking.uri import is_files

Problems = list[tuple[str, str]]
DIGEST = r"@sha256:[0-9a-f]{64}"
LEAST_BYTES = {"worker_memory": 2 * 2**30, "head_memory": 4 * 2**30}
"""Ray's own processes take about 1.5 GiB on a head and 0.5 GiB on a worker; below this they are
killed before the job starts.
"""
LONGEST_ARGUMENT = 131_072
"""Bytes of one argument under Linux; the whole command is one to the shell that runs it."""
NEW_CLUSTER = (
    *(
        "image",
        "workers",
        "max_workers",
        "worker_cpus",
        "worker_memory",
        "worker_gpus",
        "worker_selector",
        "spot_workers",
    ),
    *(
        "spot_selector",
        "head_cpus",
        "head_memory",
        "shm_memory",
        "claim",
        "queue",
        "priority",
        "environment_secrets",
        "retries",
    ),
)
"""Settings of a RayJob's own cluster, without meaning for one that exists."""
LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?"
LABEL_KEY = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def problems(config: Config) -> Problems:
    """Everything that is wrong with the settings of cluster=kuberay, as (dotted path, message)
    pairs.
    """
    cluster = config.cluster
    all_problems = name_problems(config) + tracking_problems(config)
    if cluster.ray_cluster is not None:
        return all_problems + existing_problems(cluster)
    all_problems += (
        image_problems(cluster.image)
        + worker_problems(cluster)
        + memory_problems(cluster)
        + queue_problems(cluster)
    )
    return (
        all_problems
        + time_problems(cluster)
        + storage_problems(config)
        + data_problems(config)
        + text_problems(cluster)
    )


def name_problems(config: Config) -> Problems:
    """A sweep's name becomes the RayJob's, which the operator wants short and plain."""
    faults: Problems = []
    if config.cluster.namespace is None:
        faults.append(("cluster.namespace", "must be set for cluster=kuberay"))
    name = config.sweep.name
    if not name.isascii():
        faults.append(
            (
                "sweep.name",
                f"{name!r} becomes the name of a RayJob: ASCII letters, digits and '-' only",
            )
        )
    longest = LONGEST_SWEEP - len("-000000")
    if len(name) > longest:
        faults.append(
            (
                "sweep.name",
                f"becomes the name of a RayJob: at most {longest} characters, got {len(name)}",
            )
        )
    return faults


def argument_problems(cluster: Cluster, arguments: list[str]) -> Problems:
    """Characters that no shell takes as they are, and a command that is too long for one."""
    faults: Problems = []
    for argument in arguments:
        bad = sorted(
            {character for character in argument if ord(character) < 32 or ord(character) == 127}
        )
        if bad:
            faults.append(
                (
                    argument.split("=")[0],
                    f"holds the control character {bad[0]!r}, which cannot be sent; keep such a "
                    "text in a file",
                )
            )
    length = len(entrypoint(cluster, arguments).encode())
    if length >= LONGEST_ARGUMENT:
        faults.append(
            (
                "arguments",
                f"the command has {length:,} bytes and a shell takes {LONGEST_ARGUMENT:,}; put "
                "long texts into a file",
            )
        )
    return faults


def tracking_problems(config: Config) -> Problems:
    """The cluster has to reach the tracking store."""
    uri = config.tracking.uri
    if uri is None or is_files(uri):
        shown = "unset, which means SQLite below the storage folder" if uri is None else uri
        return [
            (
                "tracking.uri",
                f"is {shown}; pods write to a server: tracking.uri=http://mlflow.NAMESPACE.svc:5000",
            )
        ]
    if re.match(r"(?i)\w+://(localhost|127\.[\d.]+|\[::1\])([:/]|$)", uri):
        return [
            (
                "tracking.uri",
                f"{uri} means each pod itself; give the server's own name: "
                "tracking.uri=http://mlflow.NAMESPACE.svc:5000",
            )
        ]
    return []


def existing_problems(cluster: Cluster) -> Problems:
    """Settings that only a new cluster has."""
    defaults = {entry.name: entry for entry in dataclasses.fields(Cluster)}
    faults: Problems = []
    for name in NEW_CLUSTER:
        entry = defaults[name]
        value = getattr(cluster, name)
        make: Any = entry.default_factory
        default = make() if entry.default is dataclasses.MISSING else entry.default
        if value != default:
            faults.append(
                (
                    f"cluster.{name}",
                    f"belongs to a new cluster, and cluster.ray_cluster={cluster.ray_cluster} "
                    "exists; leave one out",
                )
            )
    return faults


def image_problems(image: str | None) -> Problems:
    """An image by digest is the same on every node and in a year."""
    form = "cluster.image=REGISTRY/NAME@sha256:..."
    if image is None:
        return [
            ("cluster.image", f"must be set for a new cluster: {form} (k8s/README.md builds one)")
        ]
    if re.fullmatch(rf"[a-z0-9][\w.:/-]*{DIGEST}", image):
        return (
            [("cluster.image", "has the tag latest; leave the tag out")]
            if ":latest@" in image
            else []
        )
    last = image.split("@")[0].rsplit("/", 1)[-1]
    tag = last.partition(":")[2]
    if "@" in image or not re.fullmatch(r"[a-z0-9][\w.:/-]*", image):
        return [
            (
                "cluster.image",
                f"{image!r} is no image with a digest of 64 hexadecimal digits: {form}",
            )
        ]
    if tag == "latest":
        why = "has the tag latest, which moves"
    elif tag:
        why = f"has the tag {tag}, which can move"
    else:
        why = "has neither tag nor digest"
    return [("cluster.image", f"{image} {why}; name it by digest: {form}")]


def worker_problems(cluster: Cluster) -> Problems:
    """The head does no work, so there must be workers, and the bounds must hold."""
    faults: Problems = []
    most = most_workers(cluster)
    if most < cluster.workers:
        faults.append(
            (
                "cluster.max_workers",
                f"must be at least cluster.workers ({cluster.workers}), got {most}",
            )
        )
    if most + cluster.spot_workers < 1:
        faults.append(
            (
                "cluster.workers",
                "the head does no work: cluster.workers, cluster.max_workers or "
                "cluster.spot_workers must be above 0",
            )
        )
    if cluster.spot_workers and not cluster.spot_selector:
        faults.append(
            (
                "cluster.spot_selector",
                "must name the label of spot nodes, such as {cloud.google.com/gke-spot: 'true'}",
            )
        )
    return faults


def memory_problems(cluster: Cluster) -> Problems:
    """Memory that Ray cannot start in, and shared memory that is larger than the pod's."""
    faults: Problems = []
    for name, least in LEAST_BYTES.items():
        amount = getattr(cluster, name)
        if size_bytes(amount) < least:
            faults.append(
                (
                    f"cluster.{name}",
                    f"must be at least {least // 2**30}Gi for Ray to start, got {amount}",
                )
            )
        if size_bytes(cluster.shm_memory) >= size_bytes(amount):
            faults.append(
                (
                    "cluster.shm_memory",
                    f"is part of a pod's memory and must be below cluster.{name} ({amount}), got "
                    f"{cluster.shm_memory}",
                )
            )
    if size_bytes(cluster.shm_memory) < 128 * 2**20:
        faults.append(
            (
                "cluster.shm_memory",
                f"must be at least 128Mi for Ray's object store, got {cluster.shm_memory}",
            )
        )
    return faults


def queue_problems(cluster: Cluster) -> Problems:
    """Kueue reserves a fixed amount for the whole job."""
    faults: Problems = []
    if cluster.queue is not None and scales(cluster):
        text = (
            "Kueue admits a fixed number of pods: leave it out, or set "
            f"cluster.workers={most_workers(cluster)}"
        )
        faults.append(("cluster.max_workers", text))
    if cluster.priority is not None and cluster.queue is None:
        faults.append(("cluster.priority", "is Kueue's, so cluster.queue must be set too"))
    return faults


def time_problems(cluster: Cluster) -> Problems:
    """Waiting counts as part of an attempt."""
    if cluster.wait_seconds >= cluster.active_deadline_seconds:
        text = (
            f"must be below cluster.active_deadline_seconds ({cluster.active_deadline_seconds}), "
            f"got {cluster.wait_seconds}"
        )
        return [("cluster.wait_seconds", text)]
    return []


def storage_problems(config: Config) -> Problems:
    """Checkpoints and the journal must outlive a pod and be seen by all of them."""
    cluster = config.cluster
    storage = config.storage
    if re.match(r"[a-z][a-z0-9+.-]*://", storage) and not storage.startswith("file://"):
        return []
    folder = storage.removeprefix("file://")
    mount = cluster.mount.rstrip("/")
    if cluster.claim is None:
        return [
            (
                "storage",
                f"{storage} is on one machine only; mount shared storage: cluster.claim=CLAIM "
                f"storage={mount}/outputs",
            )
        ]
    if (folder != mount and not folder.startswith(f"{mount}/")) or ".." in folder.split("/"):
        return [
            (
                "storage",
                f"{storage} is not below cluster.mount ({mount}), where the claim {cluster.claim} "
                f"is; set storage={mount}/outputs",
            )
        ]
    return []


def data_problems(config: Config) -> Problems:
    """The user's data, and a base model in a folder, have to be where the pods see them: in the
    image, or on the claim.
    """
    cluster = config.cluster
    folders_in_pods = (cluster.mount, cluster.folder)
    return [
        (
            setting,
            f"{path} is not in the pods: copy it onto the claim, below {cluster.mount}, or into "
            f"the image, below {cluster.folder}",
        )
        for setting, path in staging.named_paths(config).items()
        if not filesystem.is_uri(path)
        and not any(Path(path).is_relative_to(folder) for folder in folders_in_pods)
        and not (
            Path(path).is_relative_to(project.ROOT / "data") and code_archive.travels(Path(path))
        )
    ]


def text_problems(cluster: Cluster) -> Problems:
    """Names, labels and paths that the API server or a kubelet would refuse later."""
    faults: Problems = []
    for name in ("folder", "mount"):
        value = getattr(cluster, name)
        if not re.fullmatch(r"/[\w./-]*", value) or ".." in value.split("/"):
            faults.append(
                (
                    f"cluster.{name}",
                    f"must be a plain path of letters, digits and . _ -, got {value!r}",
                )
            )
    if cluster.mount.rstrip("/") in (
        "",
        "/tmp",
        "/dev",
        "/dev/shm",
        "/tmp/ray",
        "/home/ray",
        cluster.folder.rstrip("/"),
    ):
        faults.append(
            (
                "cluster.mount",
                f"{cluster.mount} is used by the image or by Ray; mount the claim elsewhere, such "
                "as /mnt/shared",
            )
        )
    for secret in cluster.environment_secrets:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", secret):
            faults.append(
                (
                    "cluster.environment_secrets",
                    f"{secret!r} is no name of a Secret: lower-case letters, digits, '-' and '.'",
                )
            )
    for name in ("worker_selector", "spot_selector"):
        for key, value in getattr(cluster, name).items():
            if not re.fullmatch(LABEL_KEY, key) or not re.fullmatch(LABEL_VALUE, value):
                faults.append((f"cluster.{name}", f"{key}: {value!r} is no label of a node"))
    return faults
