"""The storage of a sweep that a cluster runs: looked at from here where this machine sees it, and
otherwise asked on the cluster itself.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.files import filesystem
from orchestrator.errors import InputError
from orchestrator.runs import local_commands, relay
from orchestrator.runs.local_commands import Answer
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.runs.object_store import StoreRuns
from orchestrator.storage.journal import Journal

PROGRAM = " -m orchestrator "
"""What stands before the settings in the command of a job."""


@dataclass(frozen=True)
class JobStorage:
    """Where the job of a sweep keeps it."""

    sweep: str
    """The sweep's own name."""
    storage: str | None
    """As the command on the cluster was given it; None where it was given none."""
    submission: str | None
    """By what the sweep's journal names the job."""
    is_live: bool
    """Whether the job has yet to end."""


class ClusterRuns(Protocol):
    """A cluster whose sweeps can be located."""

    def locate(self, name: str) -> JobStorage:
        """Where the sweep or job of a name keeps its files. Raises InputError without one."""
        ...

    def ask_there(self, name: str, arguments: list[str]) -> str:
        """What `relay` prints on the cluster, as the user that the job has. Raises
        OrchestratorError where it cannot be run.
        """
        ...


def storage_of(entrypoint: str) -> str | None:
    """The storage among the settings of a job's command; None where they name none."""
    _, program, settings = entrypoint.partition(PROGRAM)
    try:
        words = shlex.split(settings) if program else []
    except ValueError:
        return None
    values = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("storage=")]
    return values[-1] if values else None


def run(cluster: ClusterRuns, command: str, words: list[str], storage: str | None) -> Answer:
    """Do a command of `local_commands` for sweeps of a cluster. `storage` is where the user says
    that this machine sees them. Raises OrchestratorError.
    """
    count = 2 if command == "compare" else 1
    jobs = [cluster.locate(name) for name in words[:count]]
    in_words = [job.sweep for job in jobs] + words[count:]
    if storage is not None:
        return local_commands.run(opened(storage, jobs[0]), command, in_words)
    storages = {job.storage for job in jobs}
    if None in storages:
        raise InputError(
            f"{words[0]}: its command names no storage; where this machine sees it, add --storage "
            "FOLDER"
        )
    if len(storages) > 1:
        raise InputError(
            f"{command} takes sweeps of one storage; these lie in "
            f"{' and '.join(str(job.storage) for job in jobs)}"
        )
    runs = seen_from_here(jobs)
    if runs is not None:
        return local_commands.run(runs, command, in_words)
    arguments = [str(jobs[0].storage), command, *in_words]
    return relay.received(cluster.ask_there(words[0], arguments), Path.cwd(), jobs[0].sweep)


def opened(storage: str, job: JobStorage) -> LocalRuns:
    """A storage of this machine, in which the job of a cluster works."""
    runs = StoreRuns(storage) if filesystem.is_uri(storage) else LocalRuns(storage)
    runs.live_jobs = {job.sweep} if job.is_live else set()
    return runs


def seen_from_here(jobs: list[JobStorage]) -> LocalRuns | None:
    """The storage of jobs where this machine sees it; None where it does not, or sees another one
    that only has the same name.
    """
    storage = str(jobs[0].storage)
    try:
        runs = opened(storage, jobs[0])
        folders = [runs.sweep(job.sweep) for job in jobs]
    except InputError:
        return None
    if not filesystem.is_uri(storage) and not all(map(is_of_job, folders, jobs)):
        return None
    return runs


def is_of_job(folder: Path, job: JobStorage) -> bool:
    """Whether a journal tells of a job's own start, or is of a time when journals told none."""
    starts = [event for event in Journal(folder).events() if event["kind"] == "sweep"]
    submissions = {event.get("submission") for event in starts} - {None}
    return not submissions or job.submission in submissions


def unreachable(job: str, storage: str, way: str) -> InputError:
    """Why a command cannot be done from here, with the way that works."""
    return InputError(
        f"storage {storage} of {job} is not on this machine; {way}, or, where this machine sees "
        "the same files under another name: --storage FOLDER"
    )
