"""A command on a running Ray cluster, from outside: submitted through Ray's Jobs API, followed to
its end, found again.

The talk with the head is head.py's, what travels ship.py's, what the cluster must share
sharing.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import re
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from jobs.files.json_types import JsonObject
from orchestrator.config.cluster import Cluster
from orchestrator.config.settings import Config
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.job_environment import EXPECTED, SUBMISSION, TYPED
from orchestrator.output import run_commands
from orchestrator.output.log_relay import Relay
from orchestrator.remote import code_archive
from orchestrator.remote.ray_jobs_client import RayJobsClient, first_line, unreachable
from orchestrator.remote.submission import Submission, job_name, say
from orchestrator.storage import staging
from orchestrator.storage.paths import storage_folder

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
ASK_SECONDS = 5.0
"""Between two questions about a job whose log does not come as a stream."""
LOST_SECONDS = 600.0
"""How long the head may be silent before this command stops waiting for it."""
MOST_REFUSALS = 10
"""How often a head may answer that it takes no job yet, as one does that is starting: with the
pauses between, for some three minutes.
"""
SILENT_SECONDS = 30.0
MOST_SILENCES = 10
"""How long a log may be silent before the head is asked about the job, and after how many such
silences the log is read anew: a connection that only one side knows to be broken brings nothing,
for ever.
"""


def run(config: Config, submission: Submission, config_dir: str | None = None) -> int:
    """Submit the command, or find it running, and follow it to its end; returns its exit code."""
    head = RayJobsClient(config.cluster)
    if head.is_open():
        remedy = (
            "start its Ray with RAY_AUTH_MODE=token "
            "(https://docs.ray.io/en/latest/ray-security/token-auth.html), or close its network"
        )
        say(
            f"note    {head.where} asks for no token: whoever reaches it runs commands there and "
            f"reads this sweep; {remedy}"
        )
    running = [
        job
        for job in listed(head)
        if (job.metadata or {}).get("key") == submission.key and not job.status.is_terminal()
    ]
    if running:
        name = running[0].submission_id
        if config.fresh:
            raise InputError(
                f"fresh=true, and job {name} of the same command runs; stop it "
                f"first:\n{reattach_commands(head, name)}"
            )
        say(
            f"job     {name} runs already; "
            f"{'nothing is sent' if config.cluster.detach else 'this follows it'}"
        )
        return leave(head, name) if config.cluster.detach else follow(head, name)
    with tempfile.TemporaryDirectory() as folder:
        arguments, environment = job_payload(config, submission, Path(folder), config_dir)
        name = job_name(submission)
        environment["env_vars"] |= {
            SUBMISSION: name,
            EXPECTED: expected(config.cluster),
            TYPED: submission.typed,
        }
        accepted = post(head, name, submission.command(arguments), environment, submission)
    say(f"job     {accepted} on {head.address}")
    return leave(head, accepted) if config.cluster.detach else follow(head, accepted)


def leave(head: RayJobsClient, name: str) -> int:
    """Let a job go on by itself."""
    say(reattach_commands(head, name))
    return 0


def job_payload(
    config: Config, submission: Submission, folder: Path, config_dir: str | None
) -> tuple[list[str], JsonObject]:
    """The arguments and the runtime environment of the job: with the code and the user's files, or
    with what the image holds.
    """
    arguments = list(submission.arguments)
    environment = {"env_vars": {}}
    if config.cluster.code == "image":
        if config_dir is not None:
            raise InputError(
                f"--config-dir {config_dir} does not travel with cluster.code=image; use "
                "cluster.code=ship"
            )
        say(f"code    what the image of {config.cluster.address} holds")
        return arguments, environment
    if left := code_archive.untracked():
        say(
            "note    git does not track "
            f"{', '.join(left[:5])}{' and more' if len(left) > 5 else ''}: not sent"
        )
    named = staging.named_paths(config)
    typed = (
        submission.arguments if config_dir is None else list(named)
    )  # its files may name any path
    archive = folder / "code.zip"
    data = code_archive.local(named, storage_folder(config.storage), typed)
    names_there = code_archive.pack(
        archive, data | ({"--config-dir": Path(config_dir).resolve()} if config_dir else {})
    )
    arguments += [f"{setting}={names_there[setting]}" for setting in data]
    arguments = (
        ["--config-dir", names_there["--config-dir"], *arguments] if config_dir else arguments
    )
    say(
        f"code    {archive.stat().st_size / 2**20:.1f} MiB to "
        f"{config.cluster.address}{', with ' if names_there else ''}{', '.join(names_there)}"
    )
    return arguments, environment | {"working_dir": str(archive)}


def expected(cluster: Cluster) -> str:
    """The versions that the other side must have."""
    python = "python=" + ".".join(platform.python_version_tuple()[:2])
    return f"{python} code={code_archive.code_digest()}" if cluster.code == "image" else python


def post(
    head: RayJobsClient,
    name: str,
    command: str,
    environment: JsonObject,
    submission: Submission,
) -> str:
    """Have the job accepted, once: the name tells a repeated request from a new one."""
    metadata = {
        "orchestrator": "1",
        "sweep": submission.sweep,
        "key": submission.key,
        "command": f"python -m orchestrator {submission.typed}",
    }
    unanswered = 0
    refused = 0
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return head.call(
                head.client.submit_job,
                entrypoint=command,
                submission_id=name,
                runtime_env=environment,
                metadata=metadata,
            )
        except OSError as error:
            unanswered += 1
            if unanswered == 4:
                unknown = (
                    "the job may have been accepted or not: the same command again finds it or "
                    "sends it"
                )
                raise OrchestratorError(f"{head.where}: {error}; {unknown}") from error
            time.sleep(2 ** (unanswered - 1))
        except RuntimeError as error:
            if unanswered + refused and "already" in str(error):
                return name  # the answer to an earlier attempt was lost, not the job
            if not is_passing(error):
                raise InputError(
                    f"{head.where}: the job was refused: {first_line(error)}"
                ) from error
            refused += 1
            if refused == MOST_REFUSALS:
                remedy = "look at dashboard_agent.log on the head; the same command sends it again"
                raise OrchestratorError(
                    f"{head.where}: it still takes no job: {first_line(error)}; {remedy}"
                ) from error
            pause = wait_for(head, error, pause)


def listed(head: RayJobsClient) -> list[Any]:
    """The jobs that the head knows. One that is starting is asked again for a while. Raises
    OrchestratorError.
    """
    pause = FIRST_PAUSE_SECONDS
    for _ in range(MOST_REFUSALS - 1):
        try:
            return head.jobs()
        except OrchestratorError as error:
            if not isinstance(error.__cause__, RuntimeError) or not is_passing(error.__cause__):
                raise
            pause = wait_for(head, error.__cause__, pause)
    return head.jobs()


def wait_for(head: RayJobsClient, error: Exception, pause: float) -> float:
    """Say why the head is asked again, and wait; returns how long to wait the next time."""
    say(f"wait    {head.address} is not ready ({first_line(error)}); asking again in {pause:g} s")
    time.sleep(pause)
    return min(2 * pause, LONGEST_PAUSE_SECONDS)


def is_passing(error: Exception) -> bool:
    """Whether a refusal is the head's own trouble, such as an agent that has yet to start, and not
    the job's.
    """
    status = re.search(r"status code (\d+)", str(error))
    return status is not None and (int(status[1]) == 429 or int(status[1]) >= 500)


def reattach_commands(head: RayJobsClient, name: str) -> str:
    """How to see and to stop what goes on there."""
    watch, stop = (run_commands.on_cluster(verb, name, head.cluster) for verb in ("watch", "stop"))
    return f"next    {watch}\n        {stop}"


def follow(head: RayJobsClient, name: str) -> int:
    """Print a job's log until it ends; returns its exit code, or 130 when Ctrl-C let go of it."""
    try:
        return asyncio.run(_follow(head, name))
    except KeyboardInterrupt:
        say(f"left    job {name} goes on without this terminal\n{reattach_commands(head, name)}")
        return 130


async def _follow(head: RayJobsClient, name: str) -> int:
    relay = Relay()
    pause = FIRST_PAUSE_SECONDS
    heard = time.monotonic()
    lost = False
    while True:
        try:
            relay.restart()
            async for text in log_of(head, name):
                relay.feed(text)
                pause = FIRST_PAUSE_SECONDS
                heard = time.monotonic()
                lost = back(lost)
            job = head.call(head.client.get_job_info, name)
        except Exception as error:  # whatever broke here, the job does not hang on this connection
            job = without_stream(head, name, relay, error)
            if job is None and time.monotonic() - heard > LOST_SECONDS:
                raise OrchestratorError(
                    f"job {name}: {head.address} has not answered for {LOST_SECONDS:.0f} s; it may "
                    f"go on\n{reattach_commands(head, name)}"
                ) from error
            if job is None and not lost:
                say(
                    f"lost    the connection to {head.address} ({unreachable(error)}); the job is "
                    "not touched by that, trying again"
                )
                lost = True
        if job is not None:
            heard = time.monotonic()
            lost = back(lost)
            if job.status.is_terminal():
                relay.close()
                return ending(job)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS if job is None else ASK_SECONDS)


def back(lost: bool) -> bool:
    """Say that a lost connection is there again; it is lost no more."""
    if lost:
        say("back    the connection is there again")
    return False


async def log_of(head: RayJobsClient, name: str) -> AsyncIterator[str]:
    """A job's log as it comes, until it ends or has been silent for too long; an empty piece where
    the head answers and has no more.

    Raises what breaks the connection, OSError where the head does not answer any more.
    """
    log = head.client.tail_job_logs(name)
    silences = 0
    piece = asyncio.ensure_future(anext(log))
    try:
        while silences < MOST_SILENCES:
            if (await asyncio.wait({piece}, timeout=SILENT_SECONDS))[0]:
                yield piece.result()
                piece = asyncio.ensure_future(anext(log))
                silences = 0
            elif head.call(head.client.get_job_info, name).status.is_terminal():
                return
            else:
                silences += 1
                yield ""
    except StopAsyncIteration:
        return
    finally:
        piece.cancel()


def without_stream(head: RayJobsClient, name: str, relay: Relay, error: Exception) -> Any:
    """The job, its log handed on so far, where only the stream of its log is broken, or held up as
    by a proxy that takes no WebSocket.

    None where the head does not answer. Raises OrchestratorError where it answers and does not know
    the job any more, or not us.
    """
    try:
        job = head.call(head.client.get_job_info, name)
        with contextlib.suppress(OSError, RuntimeError):
            log = head.call(head.client.get_job_logs, name)
            relay.restart()
            relay.feed(log)
        return job
    except InputError as refused:
        raise OrchestratorError(
            f"job {name} may go on, but {refused}\n{reattach_commands(head, name)}"
        ) from error
    except RuntimeError as refused:
        if "404" in str(refused) or "does not exist" in str(refused):
            gone = (
                f"job {name} is gone: {head.address} does not know it any more; was the cluster "
                "restarted? The same command continues"
            )
            raise OrchestratorError(gone) from error
    except Exception:  # noqa: BLE001, S110  # no answer says nothing about the job
        pass
    return None


def ending(job: Any) -> int:
    """The exit code of an ended job, with its reason where the log has none."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        say(f"stopped job {job.submission_id}; the same command continues")
        return 1
    if job.driver_exit_code is None or job.driver_exit_code not in (1, 2, 130):
        say(
            f"failed  job {job.submission_id}: "
            f"{first_line(RuntimeError(job.message or 'no reason given'))}; the same command "
            "continues"
        )
        return 1
    return job.driver_exit_code
