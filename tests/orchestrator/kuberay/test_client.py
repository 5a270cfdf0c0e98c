"""The only Kubernetes client against real HTTP: every kind of answer told apart, tried again where
that helps, and one clear line where not.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.kuberay.client import PODS, RAYJOBS, Client
from orchestrator.kuberay.responses import Expired, Refusal, Unreachable, refusal
from tests.support.apiserver import Fault
from tests.support.conversation import answers
from tests.support.kuberay import Serve, serving, settings

serve = pytest.fixture(serving)


def client(patience_seconds: float = 3.0, *arguments: str) -> Client:
    """A client for the server that KUBECONFIG leads to."""
    return Client(settings(*arguments).cluster, patience_seconds)


def counted_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each pause that a client will make; none is waited for."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=pauses.append)
    monkeypatch.setattr("orchestrator.kuberay.client.time", clock)
    return pauses


REFUSED = {
    "bad-token": (
        401,
        2,
        "does not know this identity (401); sign in again, or choose another one: cluster.context=NAME",
    ),
    "no-token": (403, 2, 'User "system:anonymous" cannot list resource "rayjobs"'),
    "rbac-denied-create": (403, 2, "ask for the submitter role in k8s/"),
    "create-quota-exceeded": (403, 2, "exceeded quota: jobs"),
    "create-in-terminating-namespace": (403, 2, "because it is being terminated"),
    "create-missing-namespace": (404, 2, 'namespaces "missing" not found'),
    "path-unknown-resource": (404, 2, "is KubeRay installed there?"),
    "create-unknown-field-Strict": (400, 2, 'unknown field "spec.bogusField"'),
    "create-invalid-type": (422, 2, "spec.backoffLimit in body must be of type integer"),
    "create-denied-by-admission-policy": (
        422,
        2,
        "not allowed by policy; a policy of the cluster says so",
    ),
    "create-body-over-3MiB": (413, 2, "put long settings into a file"),
    "create-body-2MB": (500, 2, "put long settings into a file"),
    "create-webhook-down": (500, 1, 'failed calling webhook "vrayjob.example.com"'),
    "too-many-requests-create": (429, 1, "too many requests to answer (429)"),
}
"""Recorded answer -> HTTP status, exit code, what must be told."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_told_with_what_to_do(name: str, serve: Serve) -> None:
    status, code, words = REFUSED[name]
    api = serve(None)
    api.faults = [Fault("", "answer", name, 10**6)]
    with pytest.raises(Refusal) as caught:
        client(0.1).create(RAYJOBS, {"metadata": {"name": "x"}, "spec": {}})
    assert (caught.value.status, caught.value.exit_code) == (status, code)
    assert words in str(caught.value)
    assert api.address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reasons_of_a_recorded_answer_are_kept() -> None:
    for name in ("create-duplicate", "create-same-name-while-deleting"):
        body = answers()[name]["body"]
        assert refusal("there", 409, json.dumps(body).encode(), "").reason == "AlreadyExists"


def test_what_passes_is_tried_again_and_what_does_not_is_not(serve: Serve) -> None:
    api = serve(None)
    api.faults = [Fault("GET", "answer", "create-webhook-down"), Fault("GET", "drop")]
    assert client().items(RAYJOBS) == ([], "1000")
    assert len(api.requests) == 3
    api.requests.clear()
    api.faults = [Fault("GET", "answer", "rbac-denied-create", 10)]
    with pytest.raises(Refusal):
        client().items(RAYJOBS)
    assert len(api.requests) == 1


def test_a_change_that_met_another_one_is_sent_again(serve: Serve) -> None:
    api = serve(None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "x", "uid": "1"}, "spec": {}})
    conflict = json.dumps(
        {"kind": "Status", "reason": "Conflict", "message": "the object has been modified"}
    )
    api.faults = [Fault("PATCH", "other", (409, conflict), 2)]
    assert client().patch(RAYJOBS, "x", {"spec": {"suspend": True}})["spec"] == {"suspend": True}
    assert len(api.requests) == 3


def test_a_server_that_asks_for_a_pause_gets_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(None)
    api.faults = [Fault("GET", "answer", "too-many-requests-get")]
    pauses = counted_pauses(monkeypatch)
    client().items(RAYJOBS)
    assert pauses == [1.0]
    assert len(api.requests) == 2


def test_an_identity_that_was_renewed_is_taken_up(serve: Serve, tmp_path: Path) -> None:
    api = serve(None, token="old")
    mine = client()
    api.kubeconfig(tmp_path)
    assert mine.items(RAYJOBS) == ([], "1000")
    assert len(api.requests) == 2


def test_a_slow_answer_is_waited_for_and_a_silent_server_is_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(None)
    api.faults = [Fault("GET", "slow", 0.2)]
    client(0.1).items(RAYJOBS)
    monkeypatch.setattr("orchestrator.kuberay.client.READ_SECONDS", 0.5)
    api.faults = [Fault("GET", "slow", 600.0)]
    with pytest.raises(Unreachable, match="does not answer in time"):
        client(0.1).items(RAYJOBS)


def test_an_address_without_a_server_is_told(serve: Serve, tmp_path: Path) -> None:
    api = serve(None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        api.kubeconfig(tmp_path, address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(
            Unreachable, match="refuses the connection; is the address in the kubeconfig right"
        ):
            client(0.1).items(RAYJOBS)
    api.kubeconfig(tmp_path, address="http://no-such-host.invalid:6443")
    with pytest.raises(Unreachable, match="has a name that cannot be resolved"):
        client(0.1).items(RAYJOBS)


def test_a_server_without_tls_is_told_at_once(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(None)
    api.kubeconfig(tmp_path, address=api.address.replace("http:", "https:"))
    pauses = counted_pauses(monkeypatch)
    with pytest.raises(Unreachable, match="does not speak https"):
        client(600.0).items(RAYJOBS)
    assert pauses == []


def test_a_watch_tells_its_opening_its_changes_and_that_it_is_too_old(serve: Serve) -> None:
    api = serve(None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "x", "uid": "1"}})
    events = client().watch(RAYJOBS, "1000", {})
    assert next(events)[0] == "OPEN"
    kind, thing = next(events)
    assert (kind, thing["metadata"]["name"]) == ("ADDED", "x")
    for name in ("watch-too-old-resourceVersion", "list-exact-resourceVersion-too-old"):
        api.faults = [Fault("watch=1", "answer", name)]
        with pytest.raises(Expired):
            list(client().watch(RAYJOBS, "1", {}))


def test_an_event_cut_in_the_middle_is_a_lost_connection(serve: Serve) -> None:
    api = serve(None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "x", "uid": "1"}})
    api.faults = [Fault("watch=1", "cut", 0)]
    with pytest.raises(Unreachable, match="broke off the connection|middle of an event"):
        list(client().watch(RAYJOBS, "1000", {}))


OTHERS = {
    "a list": (200, "[1]"),
    "nothing": (200, "null"),
    "another service's greeting": (200, '{"status": "ok"}'),
    "a page": (200, "<html>Welcome</html>"),
    "an empty answer": (200, ""),
    "no text": (200, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")),
    "the way to another page": (302, ""),
    "brackets without end": (200, "[" * 100_000),
}
"""What other servers answer to everything."""


@pytest.mark.parametrize("answer", OTHERS.values(), ids=OTHERS)
def test_a_server_that_is_none_of_kubernetes_is_told_as_that_and_at_once(
    answer: tuple[int, str], serve: Serve
) -> None:
    api = serve(None)
    api.faults = [Fault("", "other", answer, 10**6)]
    with pytest.raises(
        Unreachable,
        match="does not answer as a Kubernetes API server; is the address in the kubeconfig right",
    ):
        client(30.0).allowed("create", "rayjobs", "ray.io")
    assert len(api.requests) == 1


PAGES = {
    (503, "<html><body>no healthy\n upstream</body></html>"): "answers 503: no healthy upstream",
    (
        404,
        "<html><center>nginx</center></html>",
    ): "nginx (404); is the address in the kubeconfig right?",
    (500, "x" * 10**6): "xxx...",
    (
        403,
        '{"message": "rayjobs is forbidden: User \\"system:anonymous\\" cannot list"}',
    ): "no token and no certificate: sign in again",
}


@pytest.mark.parametrize("answer", PAGES)
def test_what_a_load_balancer_answers_is_one_readable_line(
    answer: tuple[int, str], serve: Serve
) -> None:
    api = serve(None)
    api.faults = [Fault("", "other", answer, 10**6)]
    with pytest.raises(Refusal) as caught:
        client(0.1).items(RAYJOBS)
    assert PAGES[answer] in str(caught.value)
    assert len(str(caught.value)) < 2500 and not {"<", "\n"} & set(str(caught.value))


def test_a_long_list_whose_version_expires_on_the_way_is_read_from_its_beginning(
    serve: Serve,
) -> None:
    api = serve(None)
    first = json.dumps(
        {
            "kind": "RayJobList",
            "metadata": {"continue": "abc", "resourceVersion": "1"},
            "items": [{"metadata": {}}],
        }
    )
    api.faults = [
        Fault("limit=500$", "other", (200, first)),
        Fault("continue=abc", "answer", "list-continue-expired-410"),
    ]
    assert client().items(RAYJOBS) == ([], "1000")
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    "line", ["[]", '{"type": "ADDED"}', '"x"', '{"type": "ADDED", "object": 3}']
)
def test_an_event_that_is_none_is_a_lost_connection(line: str, serve: Serve) -> None:
    api = serve(None)
    api.faults = [Fault("watch=1", "other", (200, line))]
    with pytest.raises(Unreachable, match="in the middle of an event"):
        list(client().watch(RAYJOBS, "1000", {}))


def test_streams_end_when_the_client_is_closed(serve: Serve) -> None:
    import threading

    serve(None)
    mine, ended = client(), threading.Event()

    def read() -> None:
        try:
            for _ in mine.watch(RAYJOBS, "1000", {}):
                opened.set()
        except Unreachable:
            pass
        ended.set()

    opened = threading.Event()
    threading.Thread(target=read, daemon=True).start()
    assert opened.wait(120)
    mine.close()
    assert ended.wait(120)


@pytest.mark.parametrize(
    ("name", "status"), [("log-container-creating", 400), ("log-pod-missing", 404)]
)
def test_a_log_that_is_not_there_yet_is_no_log(name: str, status: int, serve: Serve) -> None:
    api = serve(None)
    api.faults = [Fault("/log", "answer", name)]
    with pytest.raises(Refusal) as caught:
        list(client().log("x", "log", None))
    assert caught.value.status == status


def test_a_pod_without_a_node_has_an_empty_log(serve: Serve) -> None:
    api = serve(None)
    api.faults = [Fault("/log", "answer", "log-pod-not-scheduled")]
    assert list(client().log("x", "log", None)) == [""]


def test_rights_are_asked_for_by_name(serve: Serve) -> None:
    serve(None, denied={"pods/log"})
    mine = client()
    assert mine.allowed("create", "rayjobs", "ray.io")
    assert not mine.allowed("get", "pods", subresource="log")
    with pytest.raises(Refusal):
        list(mine.log("x", "log", None))
    assert mine.find(PODS, "x") is None
