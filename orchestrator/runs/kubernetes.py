"""RayJobs of a namespace."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from typing import Any

from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output import run_commands
from orchestrator.output.log_summary import last_lines
from orchestrator.runs import relay
from orchestrator.runs.cluster_storage import JobStorage, storage_of, unreachable
from orchestrator.runs.local_storage import NUM_LOG_LINES, NUM_LOGS, of_log

LIVE = ("queued", "starting", "running")
"""States of a RayJob that still does something, or will."""

ASKED_SECONDS = 240.0
"""So long a head pod may take to answer a question about a storage."""


class KubeRayRuns:
    """RayJobs that were submitted to a namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def listed(self) -> list[dict[str, Any]]:
        """See runs.Place."""
        from orchestrator.kuberay import overview

        entries = overview.listed(self.cluster)
        logs = overview.logs(self.cluster, [entry.name for entry in entries[:NUM_LOGS]])
        return [self.record(entry, logs.get(entry.name, "")) for entry in entries]

    def record(self, entry: Any, log: str) -> dict[str, Any]:
        """A RayJob in the terms of runs.COLUMNS."""
        fields = {key: getattr(entry, key) for key in ("name", "state", "where")}
        times = {"started": moment(entry.started), "ended": moment(entry.ended)}
        return (
            fields
            | of_log(fields["state"], entry.sweep, log)
            | times
            | {"command": None, "error": entry.reason}
        )

    def show(self, name: str) -> dict[str, Any]:
        """See runs.Place."""
        from orchestrator.kuberay import overview

        rayjob = overview.show(self.cluster, name)
        log = overview.logs(self.cluster, [rayjob["name"]]).get(rayjob["name"], "")
        return (
            rayjob
            | of_log(rayjob["state"], rayjob["sweep"], log)
            | {"log": last_lines(log, NUM_LOG_LINES)}
        )

    def watch(self, name: str) -> int:
        """See runs.Place."""
        from orchestrator.kuberay import submit

        return submit.watch(self.cluster, name)

    def stop(self, name: str) -> str:
        """See runs.Place."""
        from orchestrator.kuberay import submit

        return submit.stop(self.cluster, name)

    def locate(self, name: str) -> JobStorage:
        """See cluster_storage.ClusterRuns."""
        from orchestrator.kuberay import overview

        job = overview.find(self.cluster, name)
        log = overview.logs(self.cluster, [job.name]).get(job.name, "")
        return JobStorage(
            of_log(job.state, job.sweep, log)["sweep"],
            storage_of(job.entrypoint),
            job.submission,
            job.state in LIVE,
        )

    def ask_there(self, name: str, arguments: list[str]) -> str:
        """See cluster_storage.ClusterRuns: in the head pod of the job, by `kubectl exec`."""
        from orchestrator.kuberay import overview

        job = overview.find(self.cluster, name)
        pod = overview.head_pod(self.cluster, job.name)
        storage = arguments[0]
        if pod is None:
            raise unreachable(
                f"RayJob {job.name}",
                storage,
                f"it has no head pod that runs now ({job.state}); ask from a machine that mounts "
                "its volume",
            )
        chdir = re.search(r"--chdir=\S+", job.entrypoint)
        program = ["env", *([chdir[0]] if chdir else []), "python", "-m", relay.MODULE]
        words = ["exec", pod, "--container", "ray-head", "--", *program, *arguments]
        line = run_commands.kubectl(self.cluster, *words)
        if shutil.which("kubectl") is None:
            plain = ["exec", pod, "--container", "ray-head", "--", *program[:-1]]
            plain += ["orchestrator.runs", *arguments[1:], "--storage", storage]
            shown = run_commands.kubectl(self.cluster, *plain)
            raise unreachable(
                f"RayJob {job.name}",
                storage,
                f"kubectl, which this machine lacks, asks there: {shown}",
            )
        print(f"asking  pod {pod}: the storage is not here", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                shlex.split(line),
                capture_output=True,
                text=True,
                timeout=ASKED_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OrchestratorError(f"no answer within {ASKED_SECONDS:g} s from: {line}") from error
        if done.returncode != 0:
            why = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise OrchestratorError(f"{why}; that is the answer to: {line}")
        return done.stdout

    def delete(self, name: str) -> str:
        """See runs.Place."""
        from orchestrator.kuberay import overview, submit

        rayjob = overview.show(self.cluster, name)
        if rayjob["state"] in LIVE:
            stop = run_commands.on_cluster("stop", rayjob["name"], self.cluster)
            raise InputError(f"{rayjob['name']} is {rayjob['state']}; stop it first: {stop}")
        return submit.delete(self.cluster, rayjob["name"])


def moment(text: str | None) -> float | None:
    """A time of Kubernetes, in UTC, as seconds since the epoch."""
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
