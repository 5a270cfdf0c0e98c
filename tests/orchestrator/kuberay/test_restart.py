"""An API server that restarts under a job that is followed: for a moment it knows no rights, no
kinds and no tokens, or is not there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.kuberay import submit
from orchestrator.kuberay.client import PODS, RAYCLUSTERS, RAYJOBS, Client
from orchestrator.kuberay.responses import Refusal, Unreachable, unreachable
from tests.support.apiserver import ApiServer, Fault
from tests.support.conversation import TOKEN
from tests.support.kuberay import ARGUMENTS, Serve, impatient, numbered, serving, settings

serve = pytest.fixture(serving)
UNKNOWN_ROLE = json.dumps({
    "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
    "message": 'rayjobs.ray.io is forbidden: User "me" cannot watch resource "rayjobs" in API group "ray.io" in the namespace "slm": '
    'RBAC: role.rbac.authorization.k8s.io "submitter" not found',
})  # fmt: skip
ANSWERS = {
    "403, before it knows the roles": ("other", (403, UNKNOWN_ROLE)),
    "401, before it knows the tokens": ("answer", "bad-token"),
    "404, before it knows the kinds": ("answer", "path-unknown-resource"),
    "410": ("answer", "list-exact-resourceVersion-too-old"),
    "429": ("answer", "too-many-requests-get"),
    "500": ("answer", "create-webhook-down"),
    "502": ("other", (502, "<html>bad gateway</html>")),
    "503": ("other", (503, "apiserver not ready")),
    "504": ("other", (504, "")),
    "a closed connection": ("drop", None),
    "a page of the load balancer": ("other", (200, "<html>starting</html>")),
}


def restarts(api: ApiServer, kind: str, what: object, seconds: float, pattern: str = "") -> None:
    """After the first line of the log each request is answered in one way for a while, and then as
    before.
    """
    until: list[float] = []

    def fault(request: str) -> Fault | None:
        if not until and "/log" in request:
            until.append(time.monotonic() + 0.3 + seconds)
            return Fault("/log", "cut", 3)
        if until and until[0] - seconds < time.monotonic() < until[0] and pattern in request:
            return Fault("", kind, what)
        return None

    api.fault = fault  # type: ignore[method-assign]


WHOLE = [("01", name) for name in ANSWERS] + [("02", next(iter(ANSWERS)))]


@pytest.mark.parametrize(("scenario", "name"), WHOLE)
def test_a_server_that_restarts_ends_nothing(
    scenario: str,
    name: str,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "orchestrator.kuberay.client.WATCH_SECONDS", 1
    )  # so that lists and watches begin anew meanwhile
    api = serve(scenario, speed=12.0, logs=[numbered(40), numbered(3)])
    restarts(api, *ANSWERS[name], seconds=1.0)
    assert submit.run(settings(), ARGUMENTS, None) == (0 if scenario == "01" else 1)
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("line ")][:40] == numbered(40)
    assert "lost: " not in err and "not shown" not in err, err
    for words in ("accepted", "starting cluster"):
        assert err.count(words) == (2 if scenario == "02" and words != "accepted" else 1), err


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("403", 'role.rbac.authorization.k8s.io "submitter" not found'),
        ("401", "(401)"),
        ("404", "is KubeRay installed there?"),
    ],
)
def test_what_does_not_pass_is_told_after_a_bounded_while(
    answer: str,
    told: str,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch, doubt_seconds=1.0, lost_seconds=60.0)
    api = serve("01", speed=0.5)
    kind, what = next(value for key, value in ANSWERS.items() if key.startswith(answer))
    restarts(api, kind, what, 3600.0, "rayjobs")
    monkeypatch.setattr("orchestrator.kuberay.client.WATCH_SECONDS", 1)
    began = time.monotonic()
    assert submit.run(settings(), ARGUMENTS, None) == 1
    assert time.monotonic() - began < 300, "the server stays so for ever"
    err = capsys.readouterr().err
    assert told in err[err.index("lost: ") :] and "the job goes on; come back with" in err
    assert "refused for the moment, trying again while the job goes on" in err


def client(doubt_seconds: float = 2.0) -> Client:
    """A client that has been answered once."""
    mine = Client(settings().cluster, 600.0)
    mine.doubt_seconds = doubt_seconds
    assert mine.allowed("list", "rayjobs", "ray.io")
    mine.items(RAYJOBS)
    return mine


REQUESTS: dict[str, tuple[str, Callable[[Client], object]]] = {
    "a list": ("GET", lambda mine: mine.items(RAYJOBS)),
    "a creation, never sent before": (
        "POST",
        lambda mine: mine.create(RAYJOBS, {"metadata": {"name": "x"}, "spec": {}}),
    ),
    "a patch, never sent before": (
        "PATCH",
        lambda mine: mine.patch(RAYJOBS, "a", {"spec": {"suspend": True}}),
    ),
    "a look for one": ("GET", lambda mine: mine.find(RAYJOBS, "a")),
}


ONCE = [("a list", name) for name in [*ANSWERS][:-1]] + [
    (kind, name) for kind in [*REQUESTS][1:] for name in [*ANSWERS][:3]
]


@pytest.mark.parametrize(("kind", "name"), ONCE)
def test_a_request_of_someone_who_was_answered_before_waits_for_a_server_that_starts(
    kind: str, name: str, serve: Serve
) -> None:
    """But for a page of a load balancer: before anything is followed it is taken for a wrong
    address.
    """
    api = serve(None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "a", "uid": "1"}, "spec": {}})
    mine = client()
    method, ask = REQUESTS[kind]
    api.faults = [Fault(f"{method} .*rayjobs", *ANSWERS[name], 2)]
    assert ask(mine)
    assert api.faults[0].times == 0


def test_a_kind_that_the_server_does_not_know_is_no_object_that_is_gone(serve: Serve) -> None:
    """404 has two meanings. It was taken for 'not found' where a restarting server says that there
    is no such path.
    """
    api = serve(None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "a", "uid": "1"}, "spec": {}})
    mine = client(0.3)
    api.faults = [Fault("rayjobs", "answer", "path-unknown-resource", 10**6)]
    for ask in (lambda: mine.find(RAYJOBS, "a"), lambda: mine.delete(RAYJOBS, "a")):
        with pytest.raises(Refusal, match="is KubeRay installed there"):
            ask()
    assert mine.find(RAYCLUSTERS, "a") is None


def test_a_right_that_was_never_there_is_not_waited_for_long_and_a_policy_not_at_all(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(None, denied={"pods"})
    mine = client(600.0)
    monkeypatch.setattr("orchestrator.kuberay.client.START_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(Refusal, match="ask for the submitter role"):
        mine.items(PODS)
    assert time.monotonic() - began < 300, "as long as a server takes to start, and not the rest"
    api.requests.clear()
    for name in (
        "create-quota-exceeded",
        "create-in-terminating-namespace",
        "create-denied-by-admission-policy",
    ):
        api.faults = [Fault("POST", "answer", name, 10**6)]
        with pytest.raises(Refusal):
            mine.create(RAYJOBS, {"metadata": {"name": "x"}, "spec": {}})
    assert len(api.requests) == 3


def test_a_stranger_is_refused_at_once(serve: Serve) -> None:
    api = serve(None)
    api.faults = [Fault("", "other", (403, UNKNOWN_ROLE), 10**6)]
    with pytest.raises(OrchestratorError, match="submitter"):
        submit.run(settings(), ARGUMENTS, None)
    assert len(api.requests) == 1


def test_a_token_that_comes_a_little_after_the_old_one_has_ended_is_waited_for(
    serve: Serve, tmp_path: Path
) -> None:
    api = serve(None)
    mine = client()
    api.kubeconfig(tmp_path, token="of yesterday".replace(" ", "-"))
    mine.api = Client(settings().cluster).api
    renew = mine.say

    def say(text: str) -> None:
        renew(text)
        api.kubeconfig(tmp_path, token=TOKEN)

    mine.say = say
    assert mine.items(RAYJOBS)[0] == []


def test_a_server_that_goes_down_in_the_middle_of_a_tls_greeting_comes_back() -> None:
    texts = [
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1028)",
        "EOF occurred in violation of protocol",
    ]
    for text in texts:
        problem = unreachable("the API server x", OSError(text))
        assert isinstance(problem, Unreachable) and problem.passes
    assert not unreachable(
        "x",
        OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired (_ssl.c:1)"),
    ).passes


def test_pods_that_may_be_watched_later_are_shown_then(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.kuberay.watch.ANEW_SECONDS", 0.5)
    api = serve("12", speed=10.0, denied={"pods"})
    monkeypatch.setattr(
        api, "fault", lambda request: (len(api.requests) > 30 and api.denied.clear()) or None
    )
    assert submit.run(settings(), ARGUMENTS, None) == 1
    err = capsys.readouterr().err
    assert err.count("not shown: pods") == 1 and "0/1 nodes are available" in err
