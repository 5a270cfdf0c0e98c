"""The command on a user's machine, outside of the Ray cluster that it uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.support.servers import TOKEN


def outside_command(
    toy: Path, tracking: str, storage: Path
) -> Callable[..., subprocess.Popen[str]]:
    """What starts the command on the user's machine, which has no base model, no token but the one
    given, and the data.
    """

    def start(
        *arguments: str,
        token: str | None = TOKEN,
        address: str = "",
        module: str = "orchestrator",
        root: Path = ROOT,
        ray_address: str = "",
        place: tuple[str, ...] = (),
        before: tuple[str, ...] = (),
        kubeconfig: Path | None = None,
    ) -> subprocess.Popen[str]:
        known = {
            k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ORCHESTRATOR_"))
        } | {"PYTHONPATH": str(root)}
        known |= ({"RAY_AUTH_TOKEN": token} if token else {}) | (
            {"RAY_ADDRESS": ray_address} if ray_address else {}
        )
        known["HOME"] = str(
            storage
        )  # without the token that a developer may have in the home folder
        known |= {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
        base = list(place or ("cluster=attached", f"cluster.address={address}"))
        base += ["model=tiny", "data=files", f"data.folder={toy}", "train.max_length=128"]
        base += [f"storage={storage}", f"tracking.uri={tracking}", "output=json"]
        line = [
            *before,
            sys.executable,
            "-m",
            module,
            *(base if module == "orchestrator" else []),
            *arguments,
        ]
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known, cwd=storage
        )

    return start


def until(process: subprocess.Popen[str], pattern: str) -> str:
    """Read the command's progress up to a line."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if re.search(pattern, line):
            return read
    raise AssertionError(f"it ended without {pattern}: {read}")


IMPATIENT = """
import sys
from orchestrator.config.cluster import Cluster
from orchestrator.output import console
from orchestrator.remote import ray_jobs
from orchestrator.remote.ray_jobs_client import RayJobsClient
from orchestrator.runs import cli
ray_jobs.LOST_SECONDS, ray_jobs.SILENT_SECONDS = 2.0, 1.0
command, name, address = sys.argv[1:]
if command == "watch":
    sys.exit(cli.main(["watch", name, "--address", address]))
try:
    head = RayJobsClient(Cluster(kind="attached", address=address))
    if command == "expired":
        head.client._headers["Authorization"] = "Bearer of-yesterday"
    ray_jobs.follow(head, name)
except ray_jobs.OrchestratorError as error:
    console.error(str(error))
    sys.exit(error.exit_code)
"""
"""The command with two seconds of patience instead of ten minutes; `follow` knows the job by its
name alone, as one that was submitted.
"""


def impatient(*arguments: str) -> subprocess.Popen[str]:
    """Start it on the user's machine."""
    line = [sys.executable, "-c", IMPATIENT, *arguments]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=user()
    )


def user() -> dict[str, str]:
    """The environment of the user's machine."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ORCHESTRATOR_"))}
    return known | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": TOKEN}
