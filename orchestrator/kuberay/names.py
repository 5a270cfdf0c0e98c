"""How a RayJob is named and found again: names, labels and annotations. Pure."""

from __future__ import annotations

import hashlib
import re

from orchestrator.config.settings import Config
from orchestrator.remote.submission import digest

PREFIX = "slm-orchestrator"
MANAGED = {"app.kubernetes.io/managed-by": PREFIX}
SWEEP, JOB, COMMAND, SUBMISSION = (
    f"{PREFIX}/{word}" for word in ("sweep", "job", "command", "submission")
)
"""Labels: the sweep of a RayJob, the RayJob of a pod. Annotations: the command, the submission."""
SWEEP_NAME = f"{PREFIX}/sweep-name"
"""Annotation: the sweep's own name, in the storage and in the tracking store. Where the data is not
on the machine that submits, it is known only once the command on the cluster has told it.
"""
QUEUE = "kueue.x-k8s.io/queue-name"
"""Label by which Kueue knows its jobs."""
LOG_CONTAINER = "log"
"""The container of the head pod that writes the driver's log out."""
LONGEST_NAME = 47
"""Characters of a RayJob's name: the operator appends up to 6 for the RayCluster and 10 for its
services.
"""
LONGEST_SWEEP = 42
"""Leaves room for the ending of a later submission of the same sweep, such as -r2."""


def sweep_name(config: Config, arguments: list[str], planned: str | None) -> str:
    """The sweep's name as Kubernetes takes it: lower case, from a letter on, short enough for the
    endings to come.

    `planned` is the plan's name of the sweep. Without one the arguments decide, so that the same
    command has the same name.
    """
    name = planned or f"{config.sweep.name}-{digest(arguments)[:6]}"
    name = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    name = name if name[:1].isalpha() else f"s-{name}"
    if len(name) <= LONGEST_SWEEP:
        return name
    return (
        f"{name[: LONGEST_SWEEP - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    )


def job_name(sweep: str, submission_number: int) -> str:
    """Name of the RayJob of a sweep's `submission_number`-th submission, from 1."""
    return sweep if submission_number == 1 else f"{sweep}-r{submission_number}"


def sweep_of(name: str) -> str:
    """The sweep of a RayJob. A sweep's own name ends in hexadecimal digits, so never in -r2."""
    return re.sub(r"-r\d+$", "", name)
