"""The only client of the Kubernetes API: sends, retries, streams, and tells refusals apart. How it
signs in is signin.py's.

The `kubernetes` library is used for the sign-in and for its connection pool. The requests are our
own: they ask for strict field validation, and an answer is read by its status first, since it may
be text/plain, empty, or an error inside a stream that said 200.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode

import urllib3

from jobs.files.json_types import Json, JsonObject
from orchestrator.config import credentials
from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError
from orchestrator.kuberay.auth import sign_in
from orchestrator.kuberay.responses import (
    Expired,
    Refusal,
    Unreachable,
    answer_of,
    refusal,
    unreachable,
)

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
WATCH_SECONDS = 50
"""The server ends a watch after this; with READ_SECONDS more of silence the connection counts as
lost. Bookmarks are too rare for that.
"""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
DOUBT_SECONDS = 60.0
START_SECONDS = 5.0
"""See Client.doubt_seconds; and how long a server takes until it knows all rights and kinds."""
RAYJOBS = "/apis/ray.io/v1/namespaces/{}/rayjobs"
RAYCLUSTERS = "/apis/ray.io/v1/namespaces/{}/rayclusters"
PODS = "/api/v1/namespaces/{}/pods"
EVENTS = "/api/v1/namespaces/{}/events"


class Client:
    """One API server, one namespace. `say` is told of what is tried again."""

    def __init__(
        self,
        cluster: Cluster,
        patience_seconds: float = 60.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if cluster.namespace is None:
            raise InputError("cluster.namespace must be set for Kubernetes")
        self.cluster = cluster
        self.patience_seconds = patience_seconds
        self.say = say
        self.doubt_seconds = DOUBT_SECONDS
        """How long a refusal of what was allowed before passes for a server that starts, or for a
        token on its way here.
        """
        self.namespace = cluster.namespace
        self.api = sign_in(cluster)
        self.granted: set[tuple[str, str]] = set()
        """What the server has answered: method, and kind of object."""
        self.reads_logs = False
        """Whether the server has said that this identity may read logs."""
        self.skew_seconds: float | None = None
        """How much the server's clock is before ours, as it last said; whole seconds."""
        self._streams: set[urllib3.BaseHTTPResponse] = set()
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """The API server, for messages."""
        return f"the API server {credentials.mask(self.api.configuration.host)}"

    def close(self) -> None:
        """End every stream, so that whoever reads one goes on."""
        with self._lock:
            for stream in self._streams:
                with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
                    stream.shutdown()

    def send(
        self, method: str, path: str, query: JsonObject, body: Json, kind: str, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        """One request, one answer. Raises urllib3's errors."""
        headers: dict[str, str] = {
            "Accept": "application/json, */*",
            "User-Agent": "slm-orchestrator",
        }
        if body is not None:
            headers["Content-Type"] = kind
        self.api.update_params_for_auth(headers, [], ["BearerToken"])
        read = WATCH_SECONDS + READ_SECONDS if stream else READ_SECONDS
        url = f"{self.api.configuration.host.rstrip('/')}{path.format(self.namespace)}" + (
            f"?{urlencode(query)}" if query else ""
        )
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read)
        data = None if body is None else json.dumps(body).encode()
        pool = self.api.rest_client.pool_manager
        return pool.request(
            method,
            url,
            body=data,
            headers=headers,
            timeout=timeout,
            retries=False,
            preload_content=not stream,
        )

    def ask(
        self,
        method: str,
        path: str,
        query: JsonObject | None = None,
        body: Json = None,
        kind: str = "application/json",
        patience_seconds: float | None = None,
    ) -> JsonObject:
        """The answer to a request, repeated with growing pauses while that may help. Raises Refusal
        or Unreachable.

        A repeated create may meet its own first attempt: 409 AlreadyExists, for the caller to
        judge.
        """
        patience = self.patience_seconds if patience_seconds is None else patience_seconds
        request_kind = (method, kind_of(path))
        began = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        renewed = False
        doubted: float | None = None
        while True:
            limit = began + patience
            try:
                answer = self.ask_once(method, path, query or {}, body, kind)
                self.granted.add(request_kind)
                return answer
            except Refusal as error:
                problem = error
                passes = error.passes and not (error.status == 410 and "continue" in (query or {}))
                if error.status == 401 and not renewed:
                    # the kubeconfig or the pod's token may be a new one
                    self.api = sign_in(self.cluster)
                    renewed = True
                    continue
                renewed = False
                if error.doubtful:
                    doubted = time.monotonic() if doubted is None else doubted
                    passes = bool(self.granted)
                    limit = min(limit, doubted + self.doubt_of(request_kind))
            except Unreachable as error:
                problem = error
                passes = error.passes
            wait = max(pause, problem.wait_seconds)
            if not passes or time.monotonic() + wait > limit:
                raise problem
            if pause == FIRST_PAUSE_SECONDS:
                self.say(f"note     {problem}; trying again for up to {limit - began:.0f} s")
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def doubt_of(self, request_kind: tuple[str, str]) -> float:
        """How long a refusal may pass: of what was never allowed, only as long as a server takes to
        start.
        """
        return (
            self.doubt_seconds
            if request_kind in self.granted
            else min(self.doubt_seconds, START_SECONDS)
        )

    def ask_once(
        self, method: str, path: str, query: JsonObject, body: Json, kind: str
    ) -> JsonObject:
        """The answer to a request that is sent once."""
        try:
            answer = self.send(method, path, query, body, kind, stream=False)
            self.take_time(answer.headers.get("Date", ""))
            if answer.status < 400:
                return answer_of(answer.status, answer.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
            raise unreachable(self.where, error) from error
        raise refusal(self.where, answer.status, answer.data, answer.headers.get("Retry-After", ""))

    def take_time(self, date: str) -> None:
        """Compare the server's clock with ours."""
        with contextlib.suppress(ValueError, TypeError):
            self.skew_seconds = parsedate_to_datetime(date).timestamp() - time.time()

    def since(self, moment: str) -> float | None:
        """Seconds since a moment that the server has written down, by its own clock; None where
        that cannot be told.
        """
        if self.skew_seconds is None or not moment:
            return None
        with contextlib.suppress(ValueError):
            return (
                time.time()
                + self.skew_seconds
                - datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
            )
        return None

    def items(
        self, path: str, query: JsonObject | None = None, patience_seconds: float | None = None
    ) -> tuple[list[JsonObject], str]:
        """Everything of a collection, and the version to watch it from."""
        objects: list[JsonObject] = []
        next_page: JsonObject = {}
        while True:
            try:
                answer = self.ask(
                    "GET",
                    path,
                    {**(query or {}), "limit": 500, **next_page},
                    patience_seconds=patience_seconds,
                )
            except Refusal as error:
                if error.status != 410 or not next_page:
                    raise
                # the rest is of a version that is no more: from the beginning
                objects = []
                next_page = {}
                continue
            objects += answer.get("items") or []
            metadata = answer.get("metadata", {})
            if not metadata.get("continue"):
                return objects, metadata.get("resourceVersion", "")
            next_page = {"continue": metadata["continue"]}

    def find(
        self, path: str, name: str, patience_seconds: float | None = None
    ) -> JsonObject | None:
        """One object, or None where there is none."""
        try:
            return self.ask("GET", f"{path}/{name}", patience_seconds=patience_seconds)
        except Refusal as error:
            if error.reason == "NotFound":
                return None
            raise

    def create(self, path: str, body: JsonObject) -> JsonObject:
        """Create an object; unknown fields are an error, not dropped."""
        return self.ask(
            "POST", path, {"fieldValidation": "Strict", "fieldManager": "slm-orchestrator"}, body
        )

    def patch(
        self, path: str, name: str, body: JsonObject, patience_seconds: float | None = None
    ) -> JsonObject:
        """Merge `body` into an object."""
        query = {"fieldValidation": "Strict", "fieldManager": "slm-orchestrator"}
        return self.ask(
            "PATCH", f"{path}/{name}", query, body, "application/merge-patch+json", patience_seconds
        )

    def delete(self, path: str, name: str) -> None:
        """Ask for an object to be deleted; with finalizers it stays for a while. That it is gone,
        as after a lost answer, is no error.
        """
        try:
            self.ask("DELETE", f"{path}/{name}", {"propagationPolicy": "Background"})
        except Refusal as error:
            if error.reason != "NotFound":
                raise

    def allowed(self, verb: str, resource: str, group: str = "", subresource: str = "") -> bool:
        """Whether this identity may do something in the namespace."""
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {key: value for key, value in attributes.items() if value}
            },
        }
        answer = self.ask(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", None, body
        )
        return bool(answer.get("status", {}).get("allowed"))

    def watch(self, path: str, version: str, query: JsonObject) -> Iterator[tuple[str, JsonObject]]:
        """("OPEN", {}) once the server has begun, then (type, object) of every change since
        `version`, until the server ends the stream.

        An end says nothing about the objects. Raises Expired where the version is too old, Refusal,
        or Unreachable on a broken connection.
        """
        query = {
            **query,
            "watch": 1,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
        }
        with self.stream(path, query) as answer:
            yield "OPEN", {}
            for line in lines(answer):
                try:
                    event = json.loads(line)
                    kind = event["type"]
                    changed_object = dict(event["object"])
                except (ValueError, TypeError, KeyError) as error:
                    raise Unreachable(
                        f"{self.where} ended a watch in the middle of an event"
                    ) from error
                if kind == "ERROR":
                    if changed_object.get("code") == 410:
                        raise Expired
                    raise Unreachable(
                        f"{self.where} ended a watch: {changed_object.get('code')} "
                        f"{changed_object.get('message')}"
                    )
                yield kind, changed_object

    def log(
        self, pod: str, container: str, since: str | None = None, follow: bool = True
    ) -> Iterator[str]:
        """The lines of a container's log, after an empty one once the server has begun: with their
        time in front as they come, or, without `follow`, those so far.

        Raises Refusal or Unreachable.
        """
        query = {
            "container": container,
            **({"follow": "true", "timestamps": "true"} if follow else {}),
        }
        query |= {"sinceTime": since} if since else {}
        with self.stream(f"{PODS}/{pod}/log", query) as answer:
            yield ""
            yield from lines(answer)

    @contextlib.contextmanager
    def stream(self, path: str, query: JsonObject) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer that comes bit by bit."""
        answer: urllib3.BaseHTTPResponse | None = None
        try:
            answer = self.send("GET", path, query, None, "", stream=True)
            if answer.status == 401:
                answer.close()
                self.api = sign_in(self.cluster)  # as in `ask`
                answer = self.send("GET", path, query, None, "", stream=True)
            if answer.status == 410:
                raise Expired
            if answer.status >= 400:
                raise refusal(
                    self.where, answer.status, answer.read(), answer.headers.get("Retry-After", "")
                )
            with self._lock:
                self._streams.add(answer)
            yield answer
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(self.where, error) from error
        finally:
            if answer is not None:
                with self._lock:
                    self._streams.discard(answer)
                answer.close()


def kind_of(path: str) -> str:
    """The kind of object that a path is about; the path itself where it is about none."""
    match = re.search(r"/namespaces/\{\}/([a-z]+)", path)
    return match[1] if match else path


def lines(answer: urllib3.BaseHTTPResponse) -> Iterator[str]:
    """The lines of a stream, the last one also without its end."""
    unfinished = b""
    for piece in answer.stream(2**16):
        *complete, unfinished = (unfinished + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in complete if line)
    if unfinished:
        yield unfinished.decode(errors="replace")
