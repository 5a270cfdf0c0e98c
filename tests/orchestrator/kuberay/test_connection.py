"""What comes between a job on Kubernetes and who follows it: connections, rights, tokens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.kuberay import submit
from tests.support.apiserver import Fault
from tests.support.kuberay import (
    ARGUMENTS,
    Serve,
    impatient,
    is_deletion,
    numbered,
    serving,
    settings,
)

serve = pytest.fixture(serving)
AGAIN = "the same command again continues what is finished"


FAULTS = {
    "watches break in mid-event": [
        Fault(r"GET .*rayjobs\?.*watch=1", "cut", 3, 3),
        Fault(r"GET .*pods\?.*watch=1", "cut", 1, 2),
    ],
    "the log breaks": [
        Fault("/log", "cut", 7, 1),
        Fault("/log", "cut", 4, 2),
        Fault("/log", "drop", None, 1),
    ],
    "the version is too old": [
        Fault(
            r"GET .*(rayjobs|events|pods)\?.*watch=1", "answer", "watch-too-old-resourceVersion", 6
        )
    ],
    "lists are too old": [
        Fault(
            r"GET .*rayjobs\?.*metadata.name.*limit=500",
            "answer",
            "list-exact-resourceVersion-too-old",
            1,
        )
    ],
    "too many requests": [
        Fault("GET .*(watch=1|metadata.name)", "answer", "too-many-requests-get", 2)
    ],
    "connections drop before an answer": [Fault("GET .*(watch=1|metadata.name)", "drop", None, 6)],
    "the server has an internal error": [
        Fault("GET .*watch=1", "answer", "create-webhook-down", 3)
    ],
    "answers are slow": [Fault("", "slow", 0.3, 8)],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_connection_that_fails_is_no_failure_of_the_job(
    faults: list[Fault], serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01", speed=20.0, logs=[numbered(40)])
    api.faults, times = faults, [fault.times for fault in faults]
    assert submit.run(settings(), ARGUMENTS, None) == 0
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("line ")] == numbered(40)
    for words in ("starting cluster", "is up", "running  "):
        assert err.count(words) <= 1, (
            err
        )  # what passed while the connection was lost is not told, and nothing is told twice
    assert err.count("finished RayJob") == 1
    assert [fault.times < before for fault, before in zip(faults, times, strict=True)] == [
        True
    ] * len(faults)


def test_a_server_that_stays_away_ends_the_following_and_not_the_job(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve("01", speed=5.0)
    impatient(monkeypatch, lost_seconds=1.0)
    api.faults = [Fault("(watch=1|limit=500.*metadata.name)", "drop", None, 10**6)]
    assert submit.run(settings(), ARGUMENTS, None) == 1
    err = capsys.readouterr().err
    assert "connection lost" in err
    assert re.search(
        r"lost: the API server http://\S+ broke off the connection; .*no answer for 1 s", err
    )
    assert (
        "the job goes on; come back with: " in err
        and "python -m orchestrator.runs watch lora-" in err
    )


def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause(serve: Serve) -> None:
    api = serve("01", speed=40.0, waits_seconds=0, until=is_deletion)
    api.faults = [Fault("watch=1", "answer", "watch-too-old-resourceVersion", 10**6)]
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert sum("watch=1" in request and "rayjobs" in request for request in api.requests) < 12


def test_rights_that_are_lost_on_the_way_are_told_as_that(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01", speed=5.0)
    api.faults = [Fault("rayjobs.*watch=1", "answer", "bad-token", 10**6)]
    assert submit.run(settings(), ARGUMENTS, None) == 1
    assert "does not know this identity (401)" in capsys.readouterr().err


def test_a_token_that_expires_on_the_way_is_renewed_for_every_stream(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01", speed=20.0, logs=[numbered(40)])
    api.faults = [
        Fault("watch=1", "answer", "bad-token", 1),
        Fault("/log", "answer", "bad-token", 1),
    ]
    assert submit.run(settings(), ARGUMENTS, None) == 0
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("line ")] == numbered(40)
    assert "401" not in err


def test_a_kubeconfig_that_breaks_on_the_way_is_told_as_that(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01", speed=5.0)
    api.faults = [Fault("rayjobs.*watch=1", "answer", "bad-token", 9)]
    fault = api.fault

    def broken(request: str) -> Fault | None:
        if "watch=1" in request:
            (tmp_path / "kubeconfig").write_text("{")
        return fault(request)

    api.fault = broken  # type: ignore[method-assign]
    assert submit.run(settings(), ARGUMENTS, None) == 1
    err = capsys.readouterr().err
    assert "lost: " in err and "the kubeconfig cannot be" in err
    assert "Traceback" not in err


def test_a_job_deleted_while_nobody_looked_is_told_as_deleted(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("08", speed=30.0, waits_seconds=0)
    api.faults = [Fault("rayjobs.*watch=1", "answer", "watch-too-old-resourceVersion", 10**6)]
    assert submit.run(settings(), ARGUMENTS, None) == 1
    assert "deleted: someone deleted RayJob" in capsys.readouterr().err


def test_rights_that_are_missing_leave_the_job_followed_by_its_status(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve("01", denied={"pods", "pods/log", "events"})
    assert submit.run(settings(), ARGUMENTS, None) == 0
    err = capsys.readouterr().err
    assert "may not read pods/log" in err
    assert "not shown: pods" in err
    assert "not shown: events" in err
    assert "finished RayJob" in err
