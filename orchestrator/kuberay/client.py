"""The only Kubernetes client: signs in by kubeconfig or as the pod's own account, sends, retries, streams, and tells refusals apart.

The `kubernetes` library is used for the sign-in and for its connection pool. The requests are our own: they ask for strict field
validation, and an answer is read by its status first, since it may be text/plain, empty, or an error inside a stream that said 200.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from orchestrator.cluster import Cluster
from orchestrator.errors import InputError, OrchestratorError

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
WATCH_SECONDS = 50
"""The server ends a watch after this; with READ_SECONDS more of silence the connection counts as lost. Bookmarks are too rare for that."""
LONGEST_PAUSE_SECONDS = 15.0
AGAIN = (408, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
RAYJOBS, RAYCLUSTERS = "/apis/ray.io/v1/namespaces/{}/rayjobs", "/apis/ray.io/v1/namespaces/{}/rayclusters"
PODS, EVENTS = "/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/events"


class Refusal(OrchestratorError):
    """The API server said no. `status` is the HTTP status, `reason` Kubernetes' word for it, `text` what it said."""

    def __init__(self, status: int, reason: str, text: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.text = status, reason, text
        self.exit_code = 1 if status in AGAIN else 2


class Unreachable(OrchestratorError):
    """The API server does not answer, or not to the end."""


class Expired(Exception):
    """The version to watch from is too old: list again."""


class Client:
    """One API server, one namespace. `say` is told of what is tried again."""

    def __init__(self, cluster: Cluster, patience_seconds: float = 60.0, say: Callable[[str], None] = lambda text: None) -> None:
        if cluster.namespace is None:
            raise InputError("cluster.namespace must be set for Kubernetes")
        self.cluster, self.patience_seconds, self.say = cluster, patience_seconds, say
        self.namespace = cluster.namespace
        self.api = sign_in(cluster)
        self._streams: set[urllib3.BaseHTTPResponse] = set()
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """The API server, for messages."""
        return f"the API server {self.api.configuration.host}"

    def close(self) -> None:
        """End every stream, so that whoever reads one goes on."""
        with self._lock:
            for stream in self._streams:
                with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
                    stream.shutdown()

    def send(self, method: str, path: str, query: dict[str, Any], body: Any, kind: str, stream: bool) -> urllib3.BaseHTTPResponse:
        """One request, one answer. Raises urllib3's errors."""
        headers: dict[str, str] = {"Accept": "application/json, */*", "User-Agent": "slm-orchestrator"}
        if body is not None:
            headers["Content-Type"] = kind
        self.api.update_params_for_auth(headers, [], ["BearerToken"])
        read = WATCH_SECONDS + READ_SECONDS if stream else READ_SECONDS
        url = f"{self.api.configuration.host.rstrip('/')}{path.format(self.namespace)}" + (f"?{urlencode(query)}" if query else "")
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read)
        data = None if body is None else json.dumps(body).encode()
        pool = self.api.rest_client.pool_manager
        return pool.request(method, url, body=data, headers=headers, timeout=timeout, retries=False, preload_content=not stream)

    def ask(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: Any = None,
        kind: str = "application/json",
        patience_seconds: float | None = None,
    ) -> dict[str, Any]:
        """The answer to a request, repeated with growing pauses while that may help. Raises Refusal or Unreachable.

        A repeated create may meet its own first attempt: 409 AlreadyExists, for the caller to judge.
        """
        patience = self.patience_seconds if patience_seconds is None else patience_seconds
        deadline, pause, fresh = time.monotonic() + patience, 0.5, False
        while True:
            try:
                answer = self.send(method, path, query or {}, body, kind, stream=False)
                if answer.status < 400:
                    return json.loads(answer.data or b"{}")
                problem: OrchestratorError = self.refusal(answer.status, answer.data)
                if answer.status == 401 and not fresh:
                    self.api, fresh = sign_in(self.cluster), True  # the kubeconfig or the pod's token may have been renewed
                    continue
                if answer.status not in AGAIN or "request is too large" in str(problem):
                    raise problem
                wait = max(pause, retry_after(answer))
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                problem, wait = (
                    Unreachable(f"{self.where} {plain(error)}; is the address right, and is there a way to it from here?"),
                    pause,
                )
                if "certificate" in str(problem) or isinstance(error, ValueError):
                    raise problem from error
            if time.monotonic() + wait > deadline:
                raise problem
            if pause == 0.5:
                self.say(f"{problem}\n  trying again for up to {patience:.0f} s")
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def items(
        self, path: str, query: dict[str, Any] | None = None, patience_seconds: float | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """Everything of a collection, and the version to watch it from."""
        found: list[dict[str, Any]] = []
        part: dict[str, Any] = {}
        while True:
            answer = self.ask("GET", path, {**(query or {}), "limit": 500, **part}, patience_seconds=patience_seconds)
            found += answer.get("items") or []
            metadata = answer.get("metadata", {})
            if not metadata.get("continue"):
                return found, metadata.get("resourceVersion", "")
            part = {"continue": metadata["continue"]}

    def find(self, path: str, name: str) -> dict[str, Any] | None:
        """One object, or None where there is none."""
        try:
            return self.ask("GET", f"{path}/{name}")
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object; unknown fields are an error, not dropped."""
        return self.ask("POST", path, {"fieldValidation": "Strict", "fieldManager": "slm-orchestrator"}, body)

    def patch(self, path: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Merge `body` into an object."""
        query = {"fieldValidation": "Strict", "fieldManager": "slm-orchestrator"}
        return self.ask("PATCH", f"{path}/{name}", query, body, "application/merge-patch+json")

    def delete(self, path: str, name: str) -> None:
        """Ask for an object to be deleted; with finalizers it stays for a while."""
        self.ask("DELETE", f"{path}/{name}", {"propagationPolicy": "Background"})

    def allowed(self, verb: str, resource: str, group: str = "", subresource: str = "") -> bool:
        """Whether this identity may do something in the namespace."""
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": subresource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        answer = self.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", None, body)
        return bool(answer.get("status", {}).get("allowed"))

    def watch(self, path: str, version: str, query: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(type, object) of every change since `version`, until the server ends the stream; that says nothing about the objects.

        Raises Expired where the version is too old, Refusal, or Unreachable when the connection breaks.
        """
        query = {**query, "watch": 1, "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_SECONDS}
        for line in self.lines(path, query):
            try:
                event = json.loads(line)
            except ValueError as error:
                raise Unreachable(f"{self.where} ended a watch in the middle of an event") from error
            if event["type"] == "ERROR":
                status = event["object"]
                if status.get("code") == 410:
                    raise Expired
                raise Unreachable(f"{self.where} ended a watch: {status.get('code')} {status.get('message')}")
            yield event["type"], event["object"]

    def log(self, pod: str, container: str, since: str | None) -> Iterator[str]:
        """The lines of a container's log with their time in front, as they come. Raises Refusal or Unreachable."""
        query = {"container": container, "follow": "true", "timestamps": "true", **({"sinceTime": since} if since else {})}
        return self.lines(f"{PODS}/{pod}/log", query)

    def lines(self, path: str, query: dict[str, Any]) -> Iterator[str]:
        """The lines of an answer that comes bit by bit."""
        answer: urllib3.BaseHTTPResponse | None = None
        try:
            answer = self.send("GET", path, query, None, "", stream=True)
            if answer.status == 410:
                raise Expired
            if answer.status >= 400:
                raise self.refusal(answer.status, answer.read())
            with self._lock:
                self._streams.add(answer)
            rest = b""
            for piece in answer.stream(2**16):
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole if line)
            if rest:
                yield rest.decode(errors="replace")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{self.where} {plain(error)}") from error
        finally:
            if answer is not None:
                with self._lock:
                    self._streams.discard(answer)
                answer.close()

    def refusal(self, status: int, data: bytes) -> Refusal:
        """An answer of 400 and above as an error with its remedy."""
        reason, text = "", data.decode(errors="replace").strip()
        with contextlib.suppress(ValueError):
            body = json.loads(data)
            if isinstance(body, dict):
                reason, text = str(body.get("reason") or ""), str(body.get("message") or text)
        return Refusal(status, reason, text, remedy(self, status, text))


def remedy(client: Client, status: int, text: str) -> str:
    """One line that says what was refused and what to do."""
    text = " ".join(text.split())
    texts = {
        400: f"{client.where} does not take the request: {text}; its KubeRay may be older than this program's (1.7)",
        401: f"{client.where} does not know this identity (401); sign in again, or choose another one: cluster.context=NAME",
        404: f"{client.where}: {text}" + ("; is KubeRay installed there?" if "page not found" in text else ""),
        413: f"{client.where} says that the request is too large: {text}; put long settings into a file",
        422: f"{client.where} refuses the object: {text}",
        429: f"{client.where} has too many requests to answer (429); try again later",
    }
    if status == 403:
        ours = "quota" in text or "terminated" in text
        return f"{client.where} refuses: {text}" + ("" if ours else "; ask for the submitter role in k8s/, or set cluster.context")
    if "request is too large" in text:
        return texts[413]
    return texts.get(status, f"{client.where} answers {status}: {text or 'nothing'}")


def retry_after(answer: urllib3.BaseHTTPResponse) -> float:
    """Seconds that the server asks to wait, at most a minute; 0 where it does not ask."""
    value = answer.headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.isdigit() else 0.0


def plain(error: Exception) -> str:
    """A connection error in words."""
    text = str(error)
    if isinstance(error, urllib3.exceptions.NameResolutionError) or "Name or service not known" in text:
        return "has a name that cannot be resolved"
    if isinstance(error, urllib3.exceptions.SSLError) or "CERTIFICATE" in text:
        return f"has a certificate that is not trusted here ({text.split('(')[-1].strip(') ')})"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "does not answer in time"
    if "refused" in text:
        return "refuses the connection"
    if isinstance(error, ValueError):
        return "does not answer as a Kubernetes API server"
    return "broke off the connection"


def sign_in(cluster: Cluster) -> Any:
    """The library's client for the chosen context, or for the pod's own account. Raises InputError when there is none to use."""
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    configuration = client.Configuration()
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    found = any(Path(file).is_file() for file in files.split(os.pathsep) if file)
    try:
        if cluster.context is None and not found and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(configuration)
        elif not found:
            raise InputError(f"no kubeconfig at {files}, and this is no pod; set KUBECONFIG, or sign in to the cluster first")
        else:
            config.load_kube_config(files, cluster.context, configuration, persist_config=False)
    except ConfigException as error:
        shown = f"cluster.context={cluster.context}" if cluster.context else files
        raise InputError(f"{shown}: the kubeconfig cannot be used: {' '.join(str(error).split())}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{files}: the kubeconfig cannot be read: {error}") from error
    return client.ApiClient(configuration)
