"""The HTTP side of the stand-in API server: one connection, its requests and streams, and what a
real server answers to them.
"""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.support.apiserver import ApiServer

RECORDINGS = Path(__file__).parents[1] / "orchestrator" / "kuberay" / "recordings"
TOKEN = "good-token"
KINDS = {
    "rayjobs": "RayJob",
    "rayclusters": "RayCluster",
    "pods": "Pod",
    "events": "Event",
    "workloads": "Workload",
}
SPEC_FIELDS = {
    *("activeDeadlineSeconds", "authOptions", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus"),
    *("entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "preRunningDeadlineSeconds", "rayClusterSpec"),
    *("runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend"),
    *("ttlSecondsAfterFinished",),
}  # fmt: skip
"""Fields of a RayJob's spec, for the strict validation of their names."""


def answers() -> dict[str, dict[str, Any]]:
    """The recorded raw answers by their id."""
    lines = (RECORDINGS / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["id"]: entry["response"] for entry in map(json.loads, lines)}


class Conversation(BaseHTTPRequestHandler):
    """One connection."""

    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        self.serve("GET")

    def do_POST(self) -> None:
        self.serve("POST")

    def do_PATCH(self) -> None:
        self.serve("PATCH")

    def do_DELETE(self) -> None:
        self.serve("DELETE")

    def serve(self, method: str) -> None:
        """Faults first, then the identity, then the request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{method} {self.path}"
        self.api.requests.append(line)
        fault = self.api.fault(line)
        self.cut_after = fault.what if fault and fault.kind == "cut" else None
        self.lost = fault is not None and fault.kind == "lost"
        if fault and fault.kind == "slow":
            self.api.over.wait(fault.what)
        if fault and fault.kind == "drop":
            self.close_connection = True
            return
        if fault and fault.kind == "answer":
            self.recorded(fault.what)
        elif fault and fault.kind == "other":
            self.answer(*fault.what)
        elif self.headers.get("Authorization", "").partition(" ")[::2] not in (
            ("Bearer", TOKEN),
            ("bearer", TOKEN),
        ):
            self.recorded("bad-token")
        else:
            url = urlsplit(self.path)
            self.route(
                method,
                url.path,
                {key: values[0] for key, values in parse_qs(url.query).items()},
                body,
            )

    def recorded(self, name: str) -> None:
        """Answer as recorded; a watch's events as a stream."""
        answer = answers()[name]
        if "events" in answer:
            self.begin_stream("application/json")
            for entry in answer["events"]:
                self.send_piece(json.dumps(entry["event"]) + "\n")
            self.end_stream()
            return
        text = (
            answer["body"]
            if isinstance(answer.get("body"), str)
            else json.dumps(answer.get("body"))
        )
        self.answer(
            answer["status"],
            text,
            {key: value for key, value in answer["headers"].items() if isinstance(value, str)},
        )

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """One whole answer."""
        if self.lost:
            self.close_connection = True
            return
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for key, value in (headers or {"Content-Type": "application/json"}).items():
            if key not in ("Transfer-Encoding", "Location"):
                self.send_header(key, value)
        if status == 204:
            self.end_headers()
            return
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def status(self, code: int, reason: str, message: str) -> None:
        """A failure as a Status object."""
        self.answer(
            code,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": code,
            },
        )

    def begin_stream(self, kind: str) -> None:
        """Headers of an answer in pieces."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_piece(self, text: str) -> None:
        """One piece; the connection breaks in the middle of it where a test wants that."""
        data = text.encode()
        if self.cut_after is not None:
            if self.cut_after == 0:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data[: len(data) // 2])
                raise ConnectionResetError
            self.cut_after -= 1
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end_stream(self) -> None:
        """A clean end."""
        self.wfile.write(b"0\r\n\r\n")

    def handle_one_request(self) -> None:
        """A broken connection ends the conversation."""
        try:
            super().handle_one_request()
        except (ConnectionError, OSError):
            self.close_connection = True

    def route(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        """The requests that this program makes."""
        if path.endswith("/selfsubjectaccessreviews"):
            attributes = json.loads(body)["spec"]["resourceAttributes"]
            resource = "/".join(
                filter(None, (attributes["resource"], attributes.get("subresource")))
            )
            self.answer(
                201,
                {
                    "kind": "SelfSubjectAccessReview",
                    "status": {"allowed": resource not in self.api.denied},
                },
            )
            return
        if path == "/apis/kueue.x-k8s.io" and self.api.kueue:
            self.answer(
                200,
                {
                    "kind": "APIGroup",
                    "preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"},
                },
            )
            return
        if namespace := re.fullmatch(r"/api/v1/namespaces/([^/]+)", path):
            self.answer(200, {"kind": "Namespace"}) if namespace[1] == "slm" else self.recorded(
                "create-missing-namespace"
            )
            return
        found = re.fullmatch(
            r"/(?:api/v1|apis/[a-z0-9.-]+/v1(?:beta2)?)/namespaces/([a-z0-9-]+)/([a-z]+)(?:/([^/]+))?(/log)?",
            path,
        )
        if found is None or found[2] not in KINDS:
            self.recorded("path-unknown-resource")
            return
        namespace, kind, name, log = found.groups()
        if (f"{kind}/log" if log else kind) in self.api.denied:
            self.status(
                403,
                "Forbidden",
                f'{kind} is forbidden: User "me" cannot {method} resource "{kind}" in the namespace "{namespace}"',
            )
        elif log:
            self.log(name, query)
        elif method == "GET" and name is None:
            (self.watch if query.get("watch") else self.list)(kind, namespace, query)
        elif method == "POST":
            self.create(kind, namespace, query, body)
        elif (kind, name) not in self.api.things:
            self.status(404, "NotFound", f'{kind}.ray.io "{name}" not found')
        elif method == "GET":
            self.answer(200, self.api.things[kind, name])
        else:
            (self.patch if method == "PATCH" else self.delete)(kind, name, body)

    def create(self, kind: str, namespace: str, query: dict[str, str], body: bytes) -> None:
        """Store an object and start what follows from it."""
        if namespace != "slm":
            self.recorded("create-missing-namespace")
            return
        thing = json.loads(body)
        unknown = [f'unknown field "spec.{key}"' for key in thing["spec"] if key not in SPEC_FIELDS]
        if unknown and query.get("fieldValidation") == "Strict":
            text = f'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: {", ".join(unknown)}'
            self.status(400, "BadRequest", text)
            return
        name = thing["metadata"]["name"]
        with self.api.changed:
            if (kind, name) in self.api.things:
                self.status(409, "AlreadyExists", f'rayjobs.ray.io "{name}" already exists')
                return
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            thing["metadata"] |= {
                "namespace": namespace,
                "uid": f"uid-of-{name}-{self.api.version}",
                "creationTimestamp": now,
                "generation": 1,
            }
            thing = self.api.put("ADDED", kind, thing)
        if self.api.scenario is not None:
            threading.Thread(target=self.api.play, args=(name,), daemon=True).start()
        self.answer(201, thing)

    def patch(self, kind: str, name: str, body: bytes) -> None:
        """A merge patch of labels, annotations and spec."""
        if self.headers.get("Content-Type") != "application/merge-patch+json":
            self.status(
                415, "UnsupportedMediaType", "the body of the request was in an unknown format"
            )
            return
        self.answer(
            200,
            self.api.put("MODIFIED", kind, merged(self.api.things[kind, name], json.loads(body))),
        )

    def delete(self, kind: str, name: str, body: bytes) -> None:
        """Mark an object, and remove it where nothing holds it."""
        thing = merged(
            self.api.things[kind, name],
            {
                "metadata": {
                    "deletionTimestamp": "2026-11-23T17:40:44Z",
                    "finalizers": ["ray.io/rayjob-finalizer"],
                }
            },
        )
        thing = self.api.put("MODIFIED", kind, thing)
        if not self.api.holds:
            self.api.put("DELETED", kind, thing)
        self.answer(200, thing)

    def list(self, kind: str, namespace: str, query: dict[str, str]) -> None:
        """What there is now."""
        with self.api.changed:
            items = [
                thing
                for (of, _), thing in self.api.things.items()
                if of == kind and selected(thing, query) and namespace == "slm"
            ]
            self.answer(
                200,
                {
                    "kind": f"{KINDS[kind]}List",
                    "metadata": {"resourceVersion": str(self.api.version)},
                    "items": items,
                },
            )

    def watch(self, kind: str, namespace: str, query: dict[str, str]) -> None:
        """Every change after a version, as it comes."""
        self.begin_stream("application/json")
        if kind == "rayjobs":
            self.api.watched.set()
        after, ends = int(query["resourceVersion"]), time.monotonic() + int(query["timeoutSeconds"])
        while time.monotonic() < ends and not self.api.ending:
            with self.api.changed:
                new = [entry for entry in self.api.history if entry[0] > after]
                if not new:
                    self.api.changed.wait(0.2)
            for version, change, of, thing in new:
                after = version
                if of == kind and selected(thing, query):
                    self.send_piece(json.dumps({"type": change, "object": thing}) + "\n")
        self.end_stream()

    def log(self, pod: str, query: dict[str, str]) -> None:
        """A container's log; followed, it ends when the pod is gone."""
        if ("pods", pod) not in self.api.things:
            self.status(404, "NotFound", f'pods "{pod}" not found')
            return
        since, sent = query.get("sinceTime", "").rstrip("Z"), 0
        follows, stamped = query.get("follow") == "true", query.get("timestamps") == "true"
        self.begin_stream("text/plain")
        there = True
        while there and not self.api.ending:
            there = follows and ("pods", pod) in self.api.things
            lines = [line for line in self.api.log_lines(pod) if line >= since]
            for line in lines[sent:]:
                self.send_piece((line if stamped else line.partition(" ")[2]) + "\n")
            sent = len(lines)
            time.sleep(0.02)
        self.end_stream()


def merged(thing: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """A JSON merge patch (RFC 7386)."""
    result = dict(thing)
    for key, value in patch.items():
        result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def selected(thing: dict[str, Any], query: dict[str, str]) -> bool:
    """Whether an object is what the selectors ask for."""
    wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
    labels = thing["metadata"].get("labels", {})
    pairs = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
    named = not wanted or thing["metadata"]["name"] == wanted
    return named and all(
        labels.get(key) == value if equals else key in labels for key, equals, value in pairs
    )
