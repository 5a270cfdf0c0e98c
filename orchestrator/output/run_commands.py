"""The commands that messages suggest, all made here: whole, quoted, and leading from the user's
machine to the place that is meant.

Knows which flags lead `python -m orchestrator.runs` and `kubectl` to a storage, a running Ray
cluster or a namespace of Kubernetes, and the flag for a setting where a message that names settings
is read by someone who gives flags.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from orchestrator.config.cluster import Cluster
from orchestrator.tracking.shown_commands import programs_here

FLAGS = ("address", "token_file", "context", "namespace")
"""Settings of a cluster for which `runs` has a flag of the same name."""


def runs(verb: str, name: str | None, place: list[str]) -> str:
    """`python -m orchestrator.runs VERB NAME`, for the sweep of that name at a place."""
    words = shlex.join(["orchestrator.runs", verb, *([] if name is None else [name]), *place])
    return f"{programs_here()}python -m {words}"


def in_storage(verb: str, name: str | None, storage: str) -> str:
    """The command for a sweep in a storage folder."""
    return runs(verb, name, ["--storage", storage])


def on_cluster(verb: str, name: str | None, cluster: Cluster) -> str:
    """The command for a sweep on a running Ray cluster, or on Kubernetes."""
    return runs(verb, name, place_of(cluster))


def place_of(cluster: Cluster) -> list[str]:
    """The flags by which `runs` finds a cluster, by the same way and as the same user as this
    command.
    """
    if cluster.kind == "attached":
        token = (
            []
            if cluster.token_file is None
            else ["--token-file", str(Path(cluster.token_file).expanduser().absolute())]
        )
        return ["--address", (cluster.address or "").rstrip("/"), *token]
    context = [] if cluster.context is None else ["--context", cluster.context]
    files = kubeconfig()
    return [
        "--namespace",
        cluster.namespace or "",
        *context,
        *(["--kubeconfig", files] if files else []),
    ]


def kubectl(cluster: Cluster, *arguments: str) -> str:
    """`kubectl ARGUMENTS` in the cluster's namespace."""
    context = [] if cluster.context is None else ["--context", cluster.context]
    files = kubeconfig()
    several = ["env", f"KUBECONFIG={files}"] if files and os.pathsep in files else []
    one = ["--kubeconfig", files] if files and not several else []
    return shlex.join(
        [*several, "kubectl", "--namespace", cluster.namespace or "", *context, *one, *arguments]
    )


def kubeconfig() -> str | None:
    """The kubeconfig files that the environment names, as they are found from any folder; None
    where it names none.
    """
    named = [file for file in os.environ.get("KUBECONFIG", "").split(os.pathsep) if file]
    return os.pathsep.join(str(Path(file).absolute()) for file in named) or None


def as_flags(text: str) -> str:
    """A message that names settings, with the flags that `runs` has for them."""
    return re.sub(
        rf"\bcluster\.({'|'.join(FLAGS)})(=?)",
        lambda match: flag(match[1]) + " " * bool(match[2]),
        text,
    )


def flag(name: str) -> str:
    """The flag for a setting."""
    return f"--{name.replace('_', '-')}"
