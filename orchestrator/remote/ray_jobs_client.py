"""The head of a running Ray cluster, asked through its Jobs API: signed in to, told apart from what
is none, its refusals in words.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.config import credentials
from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output.log_summary import REFUSED

ANSWER_SECONDS = 10.0
STOP_SECONDS = 30.0
"""How long a job that stops itself waits for its end."""


class NoAnswer(InputError):
    """Nothing answers at an address."""


class RayJobsClient:
    """Ray's Jobs API at one address. Raises InputError when it cannot be used at all, OSError when
    it does not answer later.
    """

    def __init__(self, cluster: Cluster) -> None:
        assert cluster.address is not None
        self.cluster = cluster
        self.address = cluster.address.rstrip("/")
        sign_in(cluster)
        self.version = self.greet()
        import ray
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.version != ray.__version__:
            raise InputError(
                f"{self.where}: the cluster runs Ray {self.version} and this machine "
                f"{ray.__version__}; install the same"
            )

        class Client(JobSubmissionClient):
            def _do_request(self, *args: Any, **options: Any) -> Any:
                return super()._do_request(
                    *args, timeout=60, **options
                )  # Ray's own would wait for ever

        self.client = Client(self.address)

    @property
    def where(self) -> str:
        """The setting, for messages."""
        return f"cluster.address={self.address}"

    def greet(self) -> str:
        """The cluster's Ray version. Raises InputError when the address does not answer as Ray's
        Jobs API, or the token is refused.
        """
        import requests
        from ray._private.authentication.http_token_authentication import (
            get_auth_headers_if_auth_enabled,
        )

        try:
            headers = get_auth_headers_if_auth_enabled({})
            answer = requests.get(
                f"{self.address}/api/version", headers=headers, timeout=ANSWER_SECONDS
            )
        except requests.exceptions.Timeout:
            raise NoAnswer(
                f"{self.where}: no answer within {ANSWER_SECONDS:g} s; check the address and the "
                "way to it"
            ) from None
        except requests.exceptions.RequestException as error:
            raise NoAnswer(
                f"{self.where}: {unreachable(error)}; check that the head runs and that its "
                "dashboard listens there"
            ) from None
        except UnicodeEncodeError:
            raise InputError(
                f"{self.where}: the token holds characters that cannot be sent; look at "
                "RAY_AUTH_TOKEN or its file"
            ) from None
        except Exception as error:
            why = str(error).split(". ")[0]  # Ray goes on with how a cluster is given one
            raise InputError(
                f"{self.where}: the token cannot be read: {why}; set RAY_AUTH_TOKEN, or "
                "cluster.token_file=FILE"
            ) from error
        if answer.status_code in (401, 403):
            have = "refuses this token" if headers else "asks for a token"
            raise InputError(
                f"{self.where}: the cluster {have}; set RAY_AUTH_TOKEN, or cluster.token_file=FILE"
            )
        try:
            return str(answer.json()["ray_version"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{self.where}: something answers ({answer.status_code}), but it is no Ray "
                "cluster; is it port 8265?"
            ) from None

    def is_open(self) -> bool:
        """Whether the head answers without a token; False where it does not answer at all."""
        import requests

        try:
            return (
                requests.get(f"{self.address}/api/version", timeout=ANSWER_SECONDS).status_code
                == 200
            )
        except requests.exceptions.RequestException:
            return False

    def jobs(self) -> list[Any]:
        """This program's jobs on the cluster, newest first."""
        own_jobs = [
            job
            for job in self.ask(self.client.list_jobs)
            if (job.metadata or {}).get("orchestrator") and job.submission_id
        ]
        return sorted(own_jobs, key=lambda job: -(job.start_time or 0))

    def call(self, request: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """One request. Raises OSError when the head does not answer, RuntimeError when it refuses,
        InputError when it refuses the token.
        """
        import requests
        from ray.exceptions import AuthenticationError

        try:
            return request(*arguments, **named)
        except AuthenticationError as error:
            raise InputError(
                f"{self.where}: the cluster refuses this token now; set RAY_AUTH_TOKEN, or "
                "cluster.token_file=FILE"
            ) from error
        except (
            TypeError,
            ValueError,
            RecursionError,
        ) as error:  # also of requests: an answer that is no JSON
            raise RuntimeError(
                "it answers something else than Ray's Jobs API does; is there a proxy in between?"
            ) from error
        except requests.exceptions.RequestException as error:
            raise ConnectionError(unreachable(error)) from error

    def ask(self, request: Callable[..., Any], *arguments: Any) -> Any:
        """One request of someone who has nothing else to try. Raises OrchestratorError when it is
        not answered, or refused.
        """
        try:
            return self.call(request, *arguments)
        except OSError as error:
            raise OrchestratorError(f"{self.where}: {error}; try again when it answers") from error
        except RuntimeError as error:
            raise OrchestratorError(f"{self.where}: {first_line(error)}") from error

    def find(self, name: str) -> Any:
        """The newest job of a sweep, or the job of that name. Raises InputError when there is
        none.
        """
        jobs = self.jobs()
        matching = [
            job for job in jobs if name in (job.submission_id, (job.metadata or {}).get("sweep"))
        ]
        if not matching:
            sweeps = (
                ", ".join(sorted({str((job.metadata or {}).get("sweep")) for job in jobs}))
                or "none"
            )
            raise InputError(f"{self.where}: no sweep {name}; what it has: {sweeps}")
        return next((job for job in matching if not job.status.is_terminal()), matching[0])


def stop_own_job() -> None:
    """Called on a RayJob's head by a command that has met bad input: stop the job that it is. A job
    that fails is started anew on another cluster, where the same input would be as bad; one that
    was stopped is not. Returns where it cannot be stopped.
    """
    submission_id = (
        json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        .get("metadata", {})
        .get("job_submission_id")
    )
    if submission_id is None:
        return
    from ray.dashboard.utils import ray_address_to_api_server_url

    print(REFUSED, flush=True)
    try:
        head = RayJobsClient(
            Cluster(
                kind="attached",
                address=ray_address_to_api_server_url(os.environ.get("RAY_ADDRESS")),
            )
        )
        head.call(head.client.stop_job, submission_id)
    except Exception as error:  # noqa: BLE001  # whatever it is, the command ends as it would have ended
        print(
            f"note     the job could not be stopped ({error}), so that it may be started anew",
            file=sys.stderr,
            flush=True,
        )
        return
    time.sleep(STOP_SECONDS)  # the signal comes before


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
    return next(
        (meaning for sign, meaning in meanings.items() if sign in text), "the connection broke"
    )


def sign_in(cluster: Cluster) -> None:
    """Let Ray's client find the token. It is never printed. Raises InputError for a token file that
    cannot be read.
    """
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)  # either would silently take the place of cluster.address
    if cluster.token_file is not None:
        path = Path(cluster.token_file).expanduser()
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cluster.token_file={path}: {getattr(error, 'strerror', None) or 'is no text'}"
            ) from error
        if not token:
            raise InputError(
                f"cluster.token_file={path} is empty; it must hold the cluster's token"
            )
        os.environ["RAY_AUTH_TOKEN"] = token
        credentials.remember(token)
    default = Path("~/.ray/auth_token").expanduser()
    has_token = (
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or default.exists()
    )
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def first_line(error: Exception) -> str:
    """What a refusal of the head says, without the trace that comes with it."""
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if not line.startswith(("File", "^"))), "no reason given"
    )[:300]
