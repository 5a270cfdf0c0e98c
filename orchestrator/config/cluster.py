"""Where the work runs: the settings of cluster=local, attached and kuberay. Knows no Ray and no
Kubernetes.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, field, fields
from typing import Literal

from jobs.config import config, require
from orchestrator.config.budget import Prices

LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
"""A DNS label (RFC 1035) as Kubernetes takes it for names."""
NAMESPACE = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
"""Names that may begin with a digit, and those that may hold dots (RFC 1123)."""
QUANTITY = r"\d{1,15}(\.\d+)?(Ki|Mi|Gi|Ti|K|M|G|T)?"
"""An amount of memory as Kubernetes writes it."""
DAY_SECONDS = 86400
MOST_PODS = 10_000
"""The largest cluster that is planned for; Kubernetes itself is tested up to 5,000 nodes."""
MOST_CORES = 4096


KINDS = {
    "local": ("num_cpus", "num_gpus", "prices"),
    "attached": ("address", "token_file", "code", "detach", "wait_seconds", "prices"),
}
"""Settings that have a meaning for a kind of cluster; all others are kuberay's."""


@config
class Cluster:
    """Where the work runs, and on KubeRay what is asked for."""

    kind: Literal["local", "attached", "kuberay"] = "local"
    """local: a Ray of its own on this machine. attached: a running Ray cluster. kuberay: a RayJob
    that brings its own cluster.
    """
    prices: Prices = field(default_factory=Prices)
    """What the machines cost: for budget.money, and for what is told of a sweep's cost."""
    num_cpus: int | None = None
    """local: CPU cores that Ray may use here. None: all."""
    num_gpus: int | None = None
    """local: GPUs that Ray may use here. None: all."""
    address: str | None = None
    """attached: http(s)://HEAD:8265, the Ray Jobs API; or auto, inside the cluster."""
    token_file: str | None = None
    """File with the token of the Ray cluster. None: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
    ~/.ray/auth_token.
    """
    code: Literal["ship", "image"] = "ship"
    """attached: ship sends what git tracks; image uses what is installed on the cluster. kuberay
    always uses the image.
    """
    folder: str = "/app"
    """Where the image keeps this project."""
    detach: bool = False
    """Return as soon as the job is accepted, without following it."""
    wait_seconds: int = 1800
    """How long work may wait for its place on the cluster, such as for new nodes or in a queue,
    before it counts as failed.
    """
    context: str | None = None
    """kuberay: context of the kubeconfig. None: the present one, or the pod's own service
    account.
    """
    namespace: str | None = None
    image: str | None = None
    """kuberay: image with this project, by digest: NAME@sha256:... or NAME:TAG@sha256:..."""
    ray_cluster: str | None = None
    """kuberay: an existing RayCluster of the namespace, used through its Jobs API, in place of a
    new one.
    """
    workers: int = 1
    """kuberay: worker pods at the start."""
    max_workers: int | None = None
    """kuberay: worker pods at most; more than `workers` turns the autoscaler on. None:
    `workers`.
    """
    worker_cpus: int = 4
    worker_memory: str = "16Gi"
    worker_gpus: int = 0
    worker_selector: dict[str, str] = field(default_factory=dict)
    """kuberay: node labels that worker pods ask for."""
    spot_workers: int = 0
    """kuberay: worker pods on spot nodes, besides the others."""
    spot_selector: dict[str, str] = field(default_factory=dict)
    """kuberay: node labels, tolerated as taints too, of spot nodes."""
    head_cpus: int = 2
    head_memory: str = "8Gi"
    shm_memory: str = "2Gi"
    """kuberay: shared memory of a pod, for Ray's object store and NCCL; part of its memory."""
    claim: str | None = None
    """kuberay: PersistentVolumeClaim (ReadWriteMany), mounted at `mount` in every pod."""
    mount: str = "/mnt/shared"
    queue: str | None = None
    """kuberay: Kueue's LocalQueue."""
    priority: str | None = None
    """kuberay: Kueue's WorkloadPriorityClass."""
    service_account: str = "ray"
    token_secret: str = "ray-token"
    """kuberay: Secret with the key auth_token for Ray's token authentication."""
    environment_secrets: list[str] = field(default_factory=list)
    """kuberay: Secrets whose keys become environment variables of every pod, such as those of an
    object store or of MLflow.
    """
    active_deadline_seconds: int = DAY_SECONDS
    """kuberay: longest time of an attempt."""
    ttl_seconds: int = 600
    """kuberay: how long the cluster stays after the end, for its logs to be read."""
    retries: int = 1
    """kuberay: attempts after the first, each on a new cluster; each continues where the last one
    stopped.
    """

    def __post_init__(self) -> None:
        least = {
            "workers": 0,
            "worker_cpus": 1,
            "worker_gpus": 0,
            "spot_workers": 0,
            "head_cpus": 1,
            "retries": 0,
        }
        least |= {
            "active_deadline_seconds": 60,
            "ttl_seconds": 0,
            "wait_seconds": 1,
            "max_workers": 0,
        }
        most: dict[str, int] = {
            "workers": MOST_PODS,
            "max_workers": MOST_PODS,
            "spot_workers": MOST_PODS,
        }
        most |= {"worker_cpus": MOST_CORES, "worker_gpus": MOST_CORES, "head_cpus": MOST_CORES}
        labels = {"namespace": NAMESPACE, "ray_cluster": LABEL}
        labels |= dict.fromkeys(
            ("claim", "queue", "priority", "service_account", "token_secret"), SUBDOMAIN
        )
        amounts = ("worker_memory", "head_memory", "shm_memory")
        require(
            (
                self.num_cpus is None or self.num_cpus >= 1,
                f"cluster.num_cpus must be at least 1, got {self.num_cpus}",
            ),
            (
                self.num_gpus is None or self.num_gpus >= 0,
                f"cluster.num_gpus must be at least 0, got {self.num_gpus}",
            ),
            *(
                (
                    low <= value <= high,
                    f"cluster.{name} must be at least {low} and at most {high:,}, got {value}",
                )
                for name, low in least.items()
                for value, high in [(getattr(self, name), most.get(name, 2**31 - 1))]
                if value is not None
            ),
            *(
                (
                    re.fullmatch(form, value) is not None,
                    f"cluster.{name} must be a name of Kubernetes, such as "
                    f"my-{name}, got {value!r}",
                )
                for name, form in labels.items()
                if (value := getattr(self, name)) not in (None, "???")
            ),
            *(
                (
                    re.fullmatch(QUANTITY, getattr(self, name)) is not None,
                    f"cluster.{name} must be like 16Gi, got {getattr(self, name)!r}",
                )
                for name in amounts
            ),
            *(
                (
                    getattr(self, name).startswith("/"),
                    f"cluster.{name} must be an absolute path, got {getattr(self, name)!r}",
                )
                for name in ("folder", "mount")
            ),
        )

    def meaningful(self) -> set[str]:
        """Settings that have a meaning for this kind of cluster."""
        names = set(KINDS.get(self.kind, ()))
        if self.kind == "kuberay":
            names = {entry.name for entry in fields(self)} - {*KINDS["local"], "address"} | {
                "detach",
                "wait_seconds",
                "prices",
            }
            names -= set() if self.ray_cluster is not None else {"token_file", "code"}
        return names

    def misplaced(self) -> list[tuple[str, str]]:
        """Settings that were given and belong to another kind of cluster, as (dotted path, message)
        pairs: the work would run elsewhere.
        """
        meaningful = self.meaningful()
        faults = []
        for entry in fields(self):
            default = entry.default if entry.default is not MISSING else entry.default_factory()  # type: ignore[misc]
            if (
                entry.name != "kind"
                and entry.name not in meaningful
                and getattr(self, entry.name) != default
            ):
                kind = next(
                    (kind for kind, names in KINDS.items() if entry.name in names), "kuberay"
                )
                faults.append(
                    (
                        f"cluster.{entry.name}",
                        f"belongs to cluster={kind}, and this is "
                        f"cluster={self.kind}; leave one out",
                    )
                )
        return faults
