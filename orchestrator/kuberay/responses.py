"""What the answers of an API server mean when they are no success: refused, not reachable, or too
old. Pure.
"""

from __future__ import annotations

import contextlib
import json
import re

import urllib3

from jobs.files.json_types import JsonObject
from orchestrator.errors import OrchestratorError

TOO_LARGE = "request is too large"
POLICY = "; a policy of the cluster says so: change what it names, or ask who keeps the policy"
LONGEST_TEXT = 2000
"""Characters of a message: those about a manifest name all fields that are wrong."""
WRONG = " (404); is the address in the kubeconfig right?"
AGAIN = (408, 410, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""


class Problem(OrchestratorError):
    """A request that brought no answer to work with."""

    passes = True
    """Whether the same request may succeed later."""
    wait_seconds = 0.0
    """How long the server asks to wait."""


class Refusal(Problem):
    """The API server said no. `status` is the HTTP status, `reason` Kubernetes' word for it, `text`
    what it said.
    """

    def __init__(
        self, status: int, reason: str, text: str, message: str, wait_seconds: float
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.text = text
        self.wait_seconds = wait_seconds
        # Conflict: another change of the object was faster. An object that is there already is
        # another reason of the same status.
        self.passes = (status in AGAIN and TOO_LARGE not in text) or reason == "Conflict"
        self.exit_code = 1 if self.passes else 2
        # A server that starts knows neither all rights nor all kinds at once, and a token that was
        # replaced may come here a little later. To someone whom it has answered before it says
        # then, for a moment, what it would say to a stranger.
        self.doubtful = (
            status == 401
            or (status == 403 and not final(text))
            or (status == 404 and reason != "NotFound")
        )


def final(text: str) -> bool:
    """Whether a 403 is no question of who asks: a policy, a quota, a namespace that is on its way
    out.
    """
    return any(
        word in text for word in ("admission webhook", "AdmissionPolicy", "quota", "terminated")
    )


class Unreachable(Problem):
    """The API server does not answer, or not to the end."""


class Expired(Exception):
    """The version to watch from is too old: list again."""


def answer_of(status: int, data: bytes) -> JsonObject:
    """The object in an answer below 400. Raises ValueError for what no API server answers, such as
    the way to a page for signing in.
    """
    answer = json.loads(data)
    if status >= 300 or not isinstance(answer, dict) or not isinstance(answer.get("kind"), str):
        raise ValueError(f"no object of Kubernetes ({status})")
    return answer


def refusal(where: str, status: int, data: bytes, retry_after: str) -> Refusal:
    """An answer of 400 and above as an error with its remedy. It may be JSON, text, or JSON by name
    only.

    `retry_after` is the header of that name, in seconds.
    """
    reason = ""
    text = data.decode(errors="replace").strip()
    with contextlib.suppress(ValueError):
        body = json.loads(data)
        if isinstance(body, dict):
            reason = str(body.get("reason") or "")
            text = str(body.get("message") or text)
    wait_seconds = min(float(retry_after), 60.0) if retry_after.isdigit() else 0.0
    return Refusal(status, reason, text, remedy(where, status, text), wait_seconds)


def remedy(where: str, status: int, text: str) -> str:
    """One line that says what was refused and what to do."""
    text = readable(text)
    if "page not found" in text:
        absence = "; is KubeRay installed there?"
    elif "not found" in text:
        absence = ""
    else:
        absence = WRONG
    texts = {
        400: (
            f"{where} does not take the request: {text}; its KubeRay may be older than this "
            "program's (1.7)"
        ),
        401: (
            f"{where} does not know this identity (401); sign in again, or choose another one: "
            "cluster.context=NAME"
        ),
        404: f"{where}: {text}{absence}",
        413: f"{where} says that the request is too large: {text}; put long settings into a file",
        422: f"{where} refuses the object: {text}" + POLICY * ("AdmissionPolicy" in text),
        429: f"{where} has too many requests to answer (429); try again later",
    }
    if status == 403:
        if "admission webhook" in text or "AdmissionPolicy" in text:
            return f"{where} refuses: {text}{POLICY}"
        if "system:anonymous" in text:
            return (
                f"{where} was not told who asks ({text}); the kubeconfig's user has no token and "
                "no certificate: sign in again"
            )
        role = (
            "; ask for the submitter role in k8s/, or sign in as someone else: cluster.context=NAME"
        )
        return f"{where} refuses: {text}" + ("" if final(text) else role)
    if TOO_LARGE in text:
        return texts[413]
    return texts.get(status, f"{where} answers {status}: {text or 'nothing'}")


def readable(text: str) -> str:
    """A message on one line, without the marks of a web page, as a load balancer answers, and not
    without end.
    """
    text = " ".join(
        (re.sub(r"<[^>]*>", " ", text) if text.lstrip().startswith("<") else text).split()
    )
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def unreachable(where: str, error: Exception) -> Unreachable:
    """A connection error in words. A certificate or a web page in place of an API server will be
    the same next time.
    """
    text = str(error)
    fault = "broke off the connection"
    passes = True
    if (
        isinstance(error, urllib3.exceptions.NameResolutionError)
        or "Name or service not known" in text
    ):
        fault = "has a name that cannot be resolved; is the address in the kubeconfig right?"
    elif re.search("UNEXPECTED_EOF|EOF occurred", text):
        pass  # a server, or a load balancer before it, that goes down in the middle of a greeting
    elif isinstance(error, urllib3.exceptions.SSLError) or "SSL" in text or "X509" in text:
        fault = untrusted(text)
        passes = False
    elif "refused" in text:
        fault = "refuses the connection; is the address in the kubeconfig right?"
    elif isinstance(error, urllib3.exceptions.TimeoutError):
        fault = "does not answer in time; is there a way to it from here, such as a VPN?"
    elif isinstance(error, ValueError | RecursionError):
        fault = (
            "does not answer as a Kubernetes API server; is the address in the kubeconfig right?"
        )
        passes = False
    problem = Unreachable(f"{where} {fault}")
    problem.passes = passes
    return problem


def untrusted(text: str) -> str:
    """Why no safe connection came about. The reason stands before the place in the source of
    Python's ssl module.
    """
    if reason := re.search(r"certificate verify failed: (.*?) \(_ssl", text):
        return (
            f"has a certificate that is not trusted here ({reason[1]}); is the kubeconfig the "
            "newest one?"
        )
    if re.search(
        "WRONG_VERSION_NUMBER|RECORD_LAYER|UNKNOWN_PROTOCOL|http_request", text, re.IGNORECASE
    ):
        return "does not speak https; is the address in the kubeconfig right?"
    if re.search("PEM|X509|KEY_VALUES|NO_CERTIFICATE", text):
        return (
            f"cannot be asked with the certificates of the kubeconfig ({' '.join(text.split())}); "
            "fetch a new one"
        )
    return f"allows no safe connection ({' '.join(text.split())})"
