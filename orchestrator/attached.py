"""A command on a running Ray cluster, from outside: submitted through Ray's Jobs API, followed to its end, found again.

Owns the talk with the head. What travels is ship.py's, what the cluster must share is shared.py's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import sharing, ship
from orchestrator.cluster import Cluster
from orchestrator.config import Config
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.journal import storage_folder
from orchestrator.relay import EXPECTED, SUBMISSION, TYPED, Relay
from orchestrator.submission import Submission, job_name, say

ANSWER_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 30.0
LOST_SECONDS = 600.0
"""How long the head may be silent before this command stops waiting for it."""


class Head:
    """Ray's Jobs API at one address. Raises InputError when it cannot be used at all, OSError when it does not answer later."""

    def __init__(self, cluster: Cluster) -> None:
        assert cluster.address is not None
        self.address = cluster.address.rstrip("/")
        sign_in(cluster)
        self.version = self.greet()
        import ray
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.version != ray.__version__:
            raise InputError(f"{self.where}: the cluster runs Ray {self.version} and this machine {ray.__version__}; install the same")

        class Client(JobSubmissionClient):
            def _do_request(self, *args: Any, **options: Any) -> Any:
                return super()._do_request(*args, timeout=60, **options)  # Ray's own would wait for ever

        self.client = Client(self.address)

    @property
    def where(self) -> str:
        """The setting, for messages."""
        return f"cluster.address={self.address}"

    def greet(self) -> str:
        """The cluster's Ray version. Raises InputError when the address does not answer as Ray's Jobs API, or the token is refused."""
        import requests
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

        try:
            headers = get_auth_headers_if_auth_enabled({})
            answer = requests.get(f"{self.address}/api/version", headers=headers, timeout=ANSWER_SECONDS)
        except requests.exceptions.Timeout:
            raise InputError(f"{self.where}: no answer within {ANSWER_SECONDS:g} s; check the address and the way to it") from None
        except requests.exceptions.RequestException as error:
            raise InputError(f"{self.where}: {unreachable(error)}; check that the head runs and that its dashboard listens there") from None
        except Exception as error:
            raise InputError(f"{self.where}: the token cannot be read: {str(error).splitlines()[0]}") from error
        if answer.status_code in (401, 403):
            have = "refuses this token" if headers else "asks for a token"
            raise InputError(f"{self.where}: the cluster {have}; set RAY_AUTH_TOKEN, or cluster.token_file=FILE")
        try:
            return str(answer.json()["ray_version"])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.where}: something answers ({answer.status_code}), but it is no Ray cluster; is it port 8265?"
            ) from None

    def jobs(self) -> list[Any]:
        """This program's jobs on the cluster, newest first."""
        found = [job for job in self.ask(self.client.list_jobs) if (job.metadata or {}).get("orchestrator") and job.submission_id]
        return sorted(found, key=lambda job: -(job.start_time or 0))

    def call(self, what: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """One request. Raises OSError when the head does not answer, RuntimeError when it refuses."""
        import requests

        try:
            return what(*arguments, **named)
        except requests.exceptions.RequestException as error:
            raise ConnectionError(unreachable(error)) from error

    def ask(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """One request of someone who has nothing else to try. Raises OrchestratorError when it is not answered, or refused."""
        try:
            return self.call(what, *arguments)
        except OSError as error:
            raise OrchestratorError(f"{self.where}: {error}; try again when it answers") from error
        except RuntimeError as error:
            raise OrchestratorError(f"{self.where}: {first_line(error)}") from error

    def find(self, name: str) -> Any:
        """The newest job of a sweep, or the job of that name. Raises InputError when there is none."""
        jobs = self.jobs()
        found = [job for job in jobs if name in (job.submission_id, (job.metadata or {}).get("sweep"))]
        if not found:
            known = ", ".join(sorted({str((job.metadata or {}).get("sweep")) for job in jobs})) or "none"
            raise InputError(f"{self.where}: no sweep {name}; what it has: {known}")
        return next((job for job in found if not job.status.is_terminal()), found[0])


def unreachable(error: Exception) -> str:
    """Why an address does not answer, in a few words."""
    text = str(error)
    meanings = {
        "Connection refused": "nothing listens there",
        "Name or service not known": "no such host",
        "Failed to resolve": "no such host",
        "No route to host": "there is no route to this host",
        "Network is unreachable": "there is no route to this host",
        "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted",
        "WRONG_VERSION_NUMBER": "it does not speak https",
        "Invalid URL": "not an address",
        "Failed to parse": "not an address",
        "Invalid header": "the token holds characters that cannot be sent",
        "header value": "the token holds characters that cannot be sent",
    }
    return next((meaning for sign, meaning in meanings.items() if sign in text), "the connection broke")


def sign_in(cluster: Cluster) -> None:
    """Let Ray's client find the token. It is never printed. Raises InputError for a token file that cannot be read."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)  # either would silently take the place of cluster.address
    if cluster.token_file is not None:
        path = Path(cluster.token_file).expanduser()
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cluster.token_file={path}: {getattr(error, 'strerror', None) or 'is no text'}") from error
        if not token:
            raise InputError(f"cluster.token_file={path} is empty; it must hold the cluster's token")
        os.environ["RAY_AUTH_TOKEN"] = token
    default = Path("~/.ray/auth_token").expanduser()
    has_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.exists()
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def run(config: Config, submission: Submission, config_dir: str | None = None) -> int:
    """Submit the command, or find it running, and follow it to its end; returns its exit code."""
    head = Head(config.cluster)
    running = [job for job in head.jobs() if (job.metadata or {}).get("key") == submission.key and not job.status.is_terminal()]
    if running:
        name = running[0].submission_id
        say(f"job     {name} runs already; {'nothing is sent' if config.cluster.detach else 'this follows it'}")
        return leave(head, name) if config.cluster.detach else follow(head, name)
    with tempfile.TemporaryDirectory() as folder:
        arguments, environment = luggage(config, submission, Path(folder), config_dir)
        name = job_name(submission)
        environment["env_vars"] |= {SUBMISSION: name, EXPECTED: expected(config.cluster), TYPED: submission.typed}
        accepted = post(head, name, submission.command(arguments), environment, submission)
    say(f"job     {accepted} on {head.address}")
    return leave(head, accepted) if config.cluster.detach else follow(head, accepted)


def leave(head: Head, name: str) -> int:
    """Let a job go on by itself."""
    say(come_back(head, name))
    return 0


def luggage(config: Config, submission: Submission, folder: Path, config_dir: str | None) -> tuple[list[str], dict[str, Any]]:
    """The arguments and the runtime environment of the job: with the code and the user's files, or with what the image holds."""
    arguments, environment = list(submission.arguments), {"env_vars": {}}
    if config.cluster.code == "image":
        if config_dir is not None:
            raise InputError(f"--config-dir {config_dir} does not travel with cluster.code=image; use cluster.code=ship")
        say(f"code    what the image of {config.cluster.address} holds")
        return arguments, environment
    if left := ship.untracked():
        say(f"note    git does not track {', '.join(left[:5])}{' and more' if len(left) > 5 else ''}: not sent")
    named = sharing.named_paths(config)
    typed = submission.arguments if config_dir is None else list(named)  # its files may name any path
    archive, data = folder / "code.zip", ship.local(named, storage_folder(config.storage), typed)
    places = ship.pack(archive, data | ({"--config-dir": Path(config_dir).resolve()} if config_dir else {}))
    arguments += [f"{setting}={places[setting]}" for setting in data]
    arguments = ["--config-dir", places["--config-dir"], *arguments] if config_dir else arguments
    say(f"code    {archive.stat().st_size / 2**20:.1f} MiB to {config.cluster.address}{', with ' if places else ''}{', '.join(places)}")
    return arguments, environment | {"working_dir": str(archive)}


def expected(cluster: Cluster) -> str:
    """The versions that the other side must have."""
    python = "python=" + ".".join(platform.python_version_tuple()[:2])
    return f"{python} code={ship.code_digest()}" if cluster.code == "image" else python


def post(head: Head, name: str, command: str, environment: dict[str, Any], submission: Submission) -> str:
    """Have the job accepted, once: the name tells a repeated request from a new one."""
    metadata = {
        "orchestrator": "1",
        "sweep": submission.sweep,
        "key": submission.key,
        "command": f"python -m orchestrator {submission.typed}",
    }
    for attempt in range(4):
        try:
            return head.call(head.client.submit_job, entrypoint=command, submission_id=name, runtime_env=environment, metadata=metadata)
        except OSError as error:
            if attempt == 3:
                raise InputError(f"{head.where}: {error}; nothing is known to have been submitted") from error
            time.sleep(2**attempt)
        except RuntimeError as error:
            if attempt and "already" in str(error):
                return name  # the answer to an earlier attempt was lost, not the job
            raise InputError(f"{head.where}: the job was refused: {first_line(error)}") from error
    raise AssertionError


def first_line(error: Exception) -> str:
    """What a refusal of the head says, without the trace that comes with it."""
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith(("File", "^"))), "no reason given")[:300]


def come_back(head: Head, name: str) -> str:
    """How to see and to stop what goes on there."""
    tool = "python -m orchestrator.runs"
    return f"next    {tool} watch {name} --address {head.address}\n        {tool} stop {name} --address {head.address}"


def follow(head: Head, name: str) -> int:
    """Print a job's log until it ends; returns its exit code, or 130 when Ctrl-C let go of it."""
    try:
        return asyncio.run(_follow(head, name))
    except KeyboardInterrupt:
        say(f"left    job {name} goes on without this terminal\n{come_back(head, name)}")
        return 130


async def _follow(head: Head, name: str) -> int:
    relay, pause, heard, lost = Relay(), 1.0, time.monotonic(), False
    while True:
        try:
            relay.restart()
            async for text in head.client.tail_job_logs(name):
                if lost:
                    say("back    the connection is there again")
                relay.feed(text)
                pause, heard, lost = 1.0, time.monotonic(), False
            job = head.call(head.client.get_job_info, name)
            heard = time.monotonic()
            if job.status.is_terminal():
                relay.close()
                return ending(job)
        except OrchestratorError:
            raise
        except Exception as error:  # whatever broke here, the job does not hang on this connection
            gone = gone_reason(head, name)
            if gone:
                raise OrchestratorError(gone) from error
            if time.monotonic() - heard > LOST_SECONDS:
                raise OrchestratorError(
                    f"job {name}: {head.address} has not answered for {LOST_SECONDS:.0f} s; it may go on\n{come_back(head, name)}"
                ) from error
            if not lost:
                say(f"lost    the connection to {head.address} ({unreachable(error)}); the job is not touched by that, trying again")
            lost = True
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def gone_reason(head: Head, name: str) -> str | None:
    """Why a job cannot be followed any more although the head answers: it does not know it."""
    try:
        head.call(head.client.get_job_info, name)
    except RuntimeError as refused:
        if "404" in str(refused) or "does not exist" in str(refused):
            return f"job {name} is gone: {head.address} does not know it any more; was the cluster restarted? The same command continues"
    except Exception:  # noqa: BLE001  # no answer says nothing about the job
        return None
    return None


def ending(job: Any) -> int:
    """The exit code of an ended job, with its reason where the log has none."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        say(f"stopped job {job.submission_id}; the same command continues")
        return 1
    if job.driver_exit_code is None or job.driver_exit_code not in (1, 2, 130):
        say(f"failed  job {job.submission_id}: {first_line(RuntimeError(job.message or 'no reason given'))}; the same command continues")
        return 1
    return job.driver_exit_code
