"""A stand-in for a Kubernetes API server over real HTTP: it speaks the protocol and plays back
recordings, faster than they happened.

Objects live in `things`, every change in `history` with a resourceVersion of its own, so that lists
and watches agree. A RayJob that is created starts a playback; names in the recording become the
created one's. Faults are switched on by a test and used up one by one.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support.conversation import KINDS, RECORDINGS, TOKEN, Conversation


def recording(scenario: str) -> list[dict[str, Any]]:
    """The changes of a scenario, by the number that it begins with."""
    (file,) = RECORDINGS.glob(f"{scenario}-*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@dataclass
class Fault:
    """What goes wrong with a request whose "METHOD path?query" a pattern finds."""

    pattern: str
    kind: str
    """answer: the recorded answer `what`. other: status and body `what`. drop: the connection
    closes unanswered. lost: it closes after the work was done. slow: it takes `what` seconds. cut:
    a stream breaks after `what` lines.
    """
    what: Any = None
    times: int = 1


@dataclass
class ApiServer:
    """The server's state. Use as a context manager."""

    scenario: str | None = None
    """What a created RayJob plays: 01 .. 13. None: nothing happens, as without an operator."""
    speed: float = 120.0
    logs: list[list[str]] = field(default_factory=lambda: [["hello from the driver"]])
    """The driver's log, for one head pod after the other."""
    denied: set[str] = field(default_factory=set)
    """Resources that this identity may not use, such as pods/log."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    things: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, str, str, dict[str, Any]]] = field(default_factory=list)
    holds: bool = False
    """Whether a finalizer keeps deleted objects, as without an operator."""
    kueue: bool = False
    waits_seconds: float = 300.0
    """How long a playback waits at most for the job to be watched, so that no change is over before
    it can be seen.
    """
    until: Callable[[dict[str, Any]], bool] | None = None
    """Stops a playback before the first recorded change that it is true for."""

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 1000
        self.heads: list[str] = []
        self.ending = False
        self.watched = threading.Event()
        self.over = threading.Event()

    def __enter__(self) -> ApiServer:
        server = self

        class Handler(Conversation):
            api = server

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending = True
        self.over.set()
        self.watched.set()
        with self.changed:
            self.changed.notify_all()
        self.http.shutdown()
        self.http.server_close()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def kubeconfig(self, folder: Path, token: str = TOKEN, address: str | None = None) -> Path:
        """A kubeconfig file that leads here."""
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": address or self.address}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "slm"}}],
        }  # fmt: skip
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return file

    def put(self, change: str, kind: str, thing: dict[str, Any]) -> dict[str, Any]:
        """Write one change of an object."""
        with self.changed:
            self.version += 1
            thing = json.loads(json.dumps(thing))
            thing["metadata"]["resourceVersion"] = str(self.version)
            thing.setdefault("kind", KINDS[kind])
            key = (kind, thing["metadata"]["name"])
            if change == "DELETED":
                self.things.pop(key, None)
            else:
                self.things[key] = thing
            self.history.append((self.version, change, kind, thing))
            self.changed.notify_all()
            return thing

    def job(self, name: str) -> dict[str, Any]:
        """A RayJob as it is now."""
        return self.things["rayjobs", name]

    def fault(self, request: str) -> Fault | None:
        """The first fault for a request, used up by one."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None

    def play(self, name: str) -> None:
        """Play the scenario for the RayJob `name`."""
        self.watched.wait(self.waits_seconds)
        began = time.monotonic()
        for entry in recording(self.scenario or ""):
            if self.ending or (self.until is not None and self.until(entry)):
                return
            self.over.wait(max(0.0, began + entry["t"] / self.speed - time.monotonic()))
            if entry["kind"] != "action" and (
                ("rayjobs", name) in self.things or entry["kind"] != "rayjobs"
            ):
                self.apply(name, entry)

    def apply(self, name: str, entry: dict[str, Any]) -> None:
        """One recorded change, with the names of the created RayJob."""
        text = re.sub(r"\btrain(-x{42})?(?=\b)", name, json.dumps(entry["object"]))
        thing, kind = json.loads(re.sub(r"\bs\d\d[a-d]?/", "slm/", text)), entry["kind"]
        thing["metadata"]["namespace"] = "slm"
        if kind == "rayjobs":
            if entry["type"] == "ADDED":
                return  # the creation itself
            mine = self.things[kind, name]
            uid = mine["metadata"]["uid"]
            thing["metadata"].pop("labels", None)
            thing = {
                **mine,
                **thing,
                "metadata": {**mine["metadata"], **thing["metadata"], "uid": uid},
                "spec": {**mine["spec"], **thing.get("spec", {})},
            }
        if kind == "pods":
            thing["metadata"].setdefault("labels", {})["slm-orchestrator/job"] = name
            self.add_log_container(thing)
        self.put(entry["type"], kind, thing)

    def add_log_container(self, pod: dict[str, Any]) -> None:
        """The container that the recorded heads did not have, in the state of the other."""
        states = pod["status"]["containerStatuses"]
        if pod["metadata"]["labels"].get("ray.io/node-type") != "head":
            return
        pod["status"]["containerStatuses"] = [
            *states,
            *({**state, "name": "log"} for state in states),
        ]
        if pod["metadata"]["name"] not in self.heads:
            self.heads.append(pod["metadata"]["name"])

    def log_lines(self, pod: str) -> list[str]:
        """What a head's driver has written, three lines a second, with the time in front."""
        if pod not in self.heads or self.heads.index(pod) >= len(self.logs):
            return []
        lines = self.logs[self.heads.index(pod)]
        return [
            f"2026-11-23T17:36:{index // 3:02d}.{'5' * (index % 3 // 2 + 1)}Z {line}"
            for index, line in enumerate(lines)
        ]
