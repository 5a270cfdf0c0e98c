"""What to do about pods that find no place: by the words of the reason that they wait for, and by
which pods wait. Pure."""

from __future__ import annotations

import re

from orchestrator.config.cluster import Cluster
from orchestrator.output import run_commands

WORKER = ("worker_cpus", "worker_memory", "worker_gpus")
SIZES = {
    "head": ("head_cpus", "head_memory"),
    "workers": (*WORKER, "workers"),
    "spot": (*WORKER, "spot_workers"),
}
"""What decides how much the head asks for, and each group of workers."""
SELECTORS = {"workers": "worker_selector", "spot": "spot_selector"}
DEFAULT = Cluster(namespace="default")

PLACEMENT = (
    (
        "ErrImagePull|ImagePullBackOff|pull image|InvalidImageName",
        "check cluster.image, and that the namespace's service account may pull it",
    ),
    (
        "PodSecurity",
        "the namespace's Pod Security refuses the pod: the text names what; cluster policies may "
        "have changed the manifest",
    ),
    (
        "(?i)persistentvolumeclaim",
        "check cluster.claim: it must be there, ReadWriteMany, and Bound: {claims}",
    ),
    ("(?i)service ?account", "check cluster.service_account; k8s/base/accounts.yaml makes one"),
    (
        r"(?i)secret \S+ not found|references non-existent secret key",
        "make the Secret, or check cluster.token_secret and cluster.environment_secrets",
    ),
    (
        "AdmissionPolicy|admission webhook",
        "a policy of the cluster refuses the pod: change what it names, or ask "
        "who keeps the policy",
    ),
    ("Insufficient", "{less}, or wait longer: cluster.wait_seconds"),
    ("affinity/selector", "{labels}: {nodes}"),
    (
        "untolerated taint",
        "the nodes are kept for others by a taint: use nodes without it{tolerate}",
    ),
    ("nodes are available", "{less}, or wait longer: cluster.wait_seconds"),
    ("quota|^queue", "{less}, free some of the quota, or wait longer: cluster.wait_seconds"),
    (
        "(maximum|minimum) (cpu|memory|nvidia)",
        "{less}: the namespace's LimitRange allows no more for one pod",
    ),
)
"""Words of the reason that a pod waits for, and what to do; the first that is found counts."""
ELSE = "see what kubectl describe tells: {describe}; wait longer with cluster.wait_seconds"


def placement_remedy(why: str, who: tuple[str, ...] = (), cluster: Cluster = DEFAULT) -> str:
    """What to do about work that found no place.

    `who` are the pods that wait: head, or groups of workers; empty where that is not known.
    """
    remedy = next((text for pattern, text in PLACEMENT if re.search(pattern, why)), ELSE)
    return remedy.format(
        less=f"ask for less ({sizes(who)})",
        labels=no_labels(who),
        tolerate=""
        if who == ("head",)
        else ", or a group that tolerates it (cluster.spot_selector)",
        claims=run_commands.kubectl(
            cluster, "get", "pvc", *([cluster.claim] if cluster.claim else [])
        ),
        nodes=run_commands.kubectl(cluster, "get", "nodes", "--show-labels"),
        describe=run_commands.kubectl(cluster, "describe", "rayjob,raycluster,pod"),
    )


def sizes(who: tuple[str, ...]) -> str:
    """The settings that decide how much the pods ask for, as a user finds them."""
    groups = [name for name in who if name in SIZES]
    names = dict.fromkeys(name for group in groups or ("workers",) for name in SIZES[group])
    of_head = "" if groups else "; of the head: cluster.head_cpus, head_memory"
    return f"cluster.{', '.join(names)}{of_head}"


def no_labels(who: tuple[str, ...]) -> str:
    """What to look at where no node has the labels that a pod asks for."""
    if who == ("head",):
        return (
            "no node takes the head, which asks for no labels by itself: a policy of the cluster, "
            "or its volume, does; the nodes"
        )
    names = [SELECTORS[name] for name in who if name in SELECTORS] or [*SELECTORS.values()]
    return (
        f"no node has these labels: check cluster.{' and cluster.'.join(names)} against the nodes"
    )
