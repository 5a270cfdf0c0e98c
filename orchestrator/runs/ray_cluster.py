"""Jobs of a Ray head."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output import run_commands
from orchestrator.output.log_summary import last_lines, told
from orchestrator.runs.local_storage import NUM_LOG_LINES, NUM_LOGS, POLL_SECONDS, STOP_SECONDS


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
