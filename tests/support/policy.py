"""What is asked of every workload that runs on a cluster, as a pure function: a manifest in, its
problems out.

Knows the pods of core kinds and of RayJobs and RayClusters. That names refer to something is left
to test_k8s.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

PLACEHOLDER = "REPLACE"
"""Part of every value that a user has to fill in; no registry takes an image with it and no API
server such an address.
"""
PINNED = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._/-]*(:\d+/[a-z0-9._/-]+)?)(:(?P<tag>\w[\w.-]*))?@sha256:[0-9a-f]{64}"
)
LONG_RUNNING = ("Deployment", "StatefulSet", "DaemonSet")
RAY = ("RayJob", "RayCluster")
KINDS = (*LONG_RUNNING, *RAY, "Job", "CronJob", "Pod")

Manifest = dict[str, Any]


def problems(manifest: Manifest) -> list[str]:
    """Everything that is wrong with a workload, each with where; empty for kinds that run
    nothing.
    """
    found = []
    for where, spec, kind in pods(manifest):
        found += [f"{where}: {text}" for text in pod_problems(spec, kind)]
    if manifest.get("kind") in RAY:
        found += ray_problems(manifest)
    return found


def placeholders(manifest: Manifest) -> list[str]:
    """The images of a workload that a user still has to name."""
    return [
        image
        for _, spec, _ in pods(manifest)
        for c in containers(spec)
        if PLACEHOLDER in (image := c.get("image", ""))
    ]


def pods(manifest: Manifest) -> Iterator[tuple[str, Manifest, str]]:
    """The pod specs of a workload with their place in it and the kind that runs them."""
    kind, spec = manifest.get("kind", ""), manifest.get("spec", {})
    name = f"{kind} {manifest.get('metadata', {}).get('name', '?')}"
    if kind == "Pod":
        yield name, spec, kind
    elif kind in (*LONG_RUNNING, "Job"):
        yield name, spec["template"]["spec"], kind
    elif kind == "CronJob":
        yield name, spec["jobTemplate"]["spec"]["template"]["spec"], kind
    elif kind in RAY:
        cluster = ray_cluster(manifest)
        yield f"{name} head", cluster["headGroupSpec"]["template"]["spec"], kind
        for group in cluster.get("workerGroupSpecs", []):
            yield f"{name} {group['groupName']}", group["template"]["spec"], kind


def ray_cluster(manifest: Manifest) -> Manifest:
    """The RayCluster's spec, also of a RayJob that brings one."""
    return (
        manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]
    )


def containers(spec: Manifest) -> list[Manifest]:
    """All containers of a pod; those that prepare it come first."""
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def pod_problems(spec: Manifest, kind: str) -> Iterator[str]:
    """What is wrong with a pod, without its place."""
    security = spec.get("securityContext", {})
    for share in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(share):
            yield f"{share} is on"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume {volume['name']} is a folder of the node"
        if (
            "emptyDir" in volume
            and volume["emptyDir"].get("medium") == "Memory"
            and "sizeLimit" not in volume["emptyDir"]
        ):
            yield f"volume {volume['name']} may take all memory: no sizeLimit"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not off: a Service named mlflow would set MLFLOW_PORT"
    if "automountServiceAccountToken" not in spec:
        yield "does not say whether it needs a token of the API server (automountServiceAccountToken)"
    elif (
        not spec["automountServiceAccountToken"]
        and spec.get("serviceAccountName", "default") == "default"
    ):
        yield "has no service account of its own"
    for container in containers(spec):
        name = container["name"]
        yield from (
            f"container {name}: {text}"
            for text in security_problems(container.get("securityContext", {}), security)
        )
        yield from (
            f"container {name}: {text}"
            for text in resource_problems(container.get("resources", {}))
        )
        yield from (
            f"container {name}: {text}" for text in image_problems(container.get("image", ""))
        )
    for container in spec.get("containers", []):
        for probe in ("readinessProbe", "livenessProbe"):
            # The operator adds those of Ray containers.
            if kind in LONG_RUNNING and probe not in container:
                yield f"container {container['name']}: no {probe}"


def security_problems(own: Manifest, pod: Manifest) -> Iterator[str]:
    """What a container may do beyond Pod Security's `restricted` with a read-only root file system;
    `pod` holds the pod's settings.
    """
    merged = {**pod, **own}
    if merged.get("runAsNonRoot") is not True or merged.get("runAsUser", 1000) == 0:
        yield "may run as root"
    if merged.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
        yield "keeps capabilities"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root file system"


def resource_problems(resources: Manifest) -> Iterator[str]:
    """Missing requests and limits; memory beyond the request is taken from neighbours."""
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for amount in ("cpu", "memory"):
        if amount not in requests:
            yield f"requests no {amount}"
        if amount not in limits:
            yield f"has no limit of {amount}"
    if "memory" in requests and "memory" in limits and requests["memory"] != limits["memory"]:
        yield f"requests {requests['memory']} of memory but may take {limits['memory']}"


def image_problems(image: str) -> Iterator[str]:
    """Why an image is not one and the same tomorrow. One with a placeholder is no image yet: see
    `placeholders`.
    """
    if re.search(r":latest(@|$)", image):
        yield f"image {image}: latest is whatever was pushed last"
    elif PLACEHOLDER not in image and not PINNED.fullmatch(image):
        yield f"image {image}: not named by digest (NAME:TAG@sha256:...)"


def ray_problems(manifest: Manifest) -> Iterator[str]:
    """What KubeRay or Kueue would refuse or get wrong, and Ray without a token."""
    name, cluster = f"{manifest['kind']} {manifest['metadata']['name']}", ray_cluster(manifest)
    labels = manifest["metadata"].get("labels", {})
    if cluster.get("authOptions", {}).get("mode") != "token" or not cluster["authOptions"].get(
        "secretName"
    ):
        yield f"{name}: whoever reaches it runs code there (authOptions)"
    if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
        yield f"{name}: work may land on the head"
    options = cluster.get("autoscalerOptions", {})
    if cluster.get("enableInTreeAutoscaling"):
        if "kueue.x-k8s.io/queue-name" in labels:
            yield f"{name}: autoscaling in a queue of Kueue"
        yield from (
            f"{name} autoscaler: {text}" for text in resource_problems(options.get("resources", {}))
        )
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        yield from (
            f"{name} autoscaler: {text}"
            for text in security_problems(options.get("securityContext", {}), security)
        )
    if manifest["kind"] == "RayJob":
        for deadline in (
            "activeDeadlineSeconds",
            "preRunningDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
        ):
            if deadline not in manifest["spec"]:
                yield f"{name}: no {deadline}"
        if not manifest["spec"].get("shutdownAfterJobFinishes"):
            yield f"{name}: its cluster stays for ever"
