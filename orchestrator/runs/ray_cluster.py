"""Jobs of a Ray head."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output import run_commands
from orchestrator.output.log_summary import last_lines, sweep_told, told
from orchestrator.runs import relay
from orchestrator.runs.cluster_storage import JobStorage, storage_of
from orchestrator.runs.local_storage import NUM_LOG_LINES, NUM_LOGS, POLL_SECONDS, STOP_SECONDS

ASKED_SECONDS = 240.0
"""So long the head may take to start what answers a question about a storage, and to answer it."""


class RayJobRuns:
    """Commands that were sent to a running Ray cluster."""

    def __init__(self, cluster: Cluster) -> None:
        from orchestrator.remote.ray_jobs_client import RayJobsClient

        self.head = RayJobsClient(cluster)

    def listed(self) -> list[dict[str, Any]]:
        """See runs.Place."""
        jobs = self.head.jobs()
        return [
            self.record(job, self.log(job) if position < NUM_LOGS else "")
            for position, job in enumerate(jobs)
        ]

    def log(self, job: Any) -> str:
        """What a job has printed so far; nothing where it is not to be had any more."""
        try:
            return self.head.call(self.head.client.get_job_logs, job.submission_id)
        except (OSError, RuntimeError):
            return ""

    def record(self, job: Any, log: str) -> dict[str, Any]:
        """A job in the terms of runs.COLUMNS."""
        state = str(job.status.value).lower()
        return {
            "name": job.submission_id,
            "state": {"succeeded": "finished", "pending": "starting"}.get(state, state),
            **told(log),
            "started": job.start_time / 1000 if job.start_time else None,
            "ended": job.end_time / 1000 if job.end_time else None,
            "where": self.head.address,
            "sweep": job.metadata.get("sweep"),
            "command": job.metadata.get("command"),
            "error": job.message if job.status == "FAILED" else None,
        }

    def show(self, name: str) -> dict[str, Any]:
        """See runs.Place."""
        job = self.head.find(name)
        log = self.log(job)
        return self.record(job, log) | {"log": last_lines(log, NUM_LOG_LINES)}

    def watch(self, name: str) -> int:
        """See runs.Place."""
        from orchestrator.remote.ray_jobs import follow

        return follow(self.head, self.head.find(name).submission_id)

    def stop(self, name: str) -> str:
        """See runs.Place."""
        job = self.head.find(name)
        if job.status.is_terminal():
            return f"{job.submission_id} does not run: {str(job.status.value).lower()}"
        self.head.ask(self.head.client.stop_job, job.submission_id)
        deadline = time.monotonic() + STOP_SECONDS
        while not self.head.ask(
            self.head.client.get_job_info, job.submission_id
        ).status.is_terminal():
            if time.monotonic() > deadline:
                raise OrchestratorError(
                    f"{job.submission_id} was asked to stop and has not ended within "
                    f"{STOP_SECONDS:g} s"
                )
            time.sleep(POLL_SECONDS)
        return (
            f"{job.submission_id} is stopped; what is done is kept, and the same command continues"
        )

    def locate(self, name: str) -> JobStorage:
        """See cluster_storage.ClusterRuns."""
        job = self.find(name)
        sweep = sweep_told(self.log(job)) or str((job.metadata or {}).get("sweep"))
        is_live = not job.status.is_terminal()
        return JobStorage(sweep, storage_of(job.entrypoint or ""), job.submission_id, is_live)

    def find(self, name: str) -> Any:
        """The newest job of a sweep, also by the name that only its log tells, since the data was
        not on the machine that has sent it. Raises InputError without one.
        """
        try:
            return self.head.find(name)
        except InputError:
            for job in self.head.jobs()[:NUM_LOGS]:
                if sweep_told(self.log(job)) == name:
                    return job
            raise

    def ask_there(self, name: str, arguments: list[str]) -> str:
        """See cluster_storage.ClusterRuns: a job of its own, which runs on the head with this code
        and is forgotten once it has answered.
        """
        from orchestrator.remote import code_archive, submission

        print(f"asking  {self.head.address}: the storage is not here", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="runs-") as folder:
            archive = Path(folder) / "code.zip"
            code_archive.pack(archive, {})
            job = self.head.ask(
                functools.partial(
                    self.head.client.submit_job,
                    entrypoint=submission.module_command(relay.MODULE, arguments),
                    runtime_env={"working_dir": str(archive)},
                )
            )
        deadline = time.monotonic() + ASKED_SECONDS
        client = self.head.client
        while not self.head.ask(client.get_job_status, job).is_terminal():
            if time.monotonic() > deadline:
                self.head.ask(client.stop_job, job)
                raise OrchestratorError(
                    f"{self.head.where}: no answer within {ASKED_SECONDS:g} s; is the head's Ray "
                    "busy? Try again"
                )
            time.sleep(POLL_SECONDS)
        printed = self.head.ask(client.get_job_logs, job)
        with contextlib.suppress(OSError, RuntimeError):
            self.head.call(client.delete_job, job)
        return printed

    def delete(self, name: str) -> str:
        """See runs.Place."""
        job = self.head.find(name)
        if not job.status.is_terminal():
            stop = run_commands.on_cluster("stop", job.submission_id, self.head.cluster)
            raise InputError(f"{job.submission_id} runs; stop it first: {stop}")
        self.head.ask(self.head.client.delete_job, job.submission_id)
        return (
            f"{job.submission_id} is deleted from {self.head.address}; its storage and what MLflow "
            "holds of it stay"
        )
