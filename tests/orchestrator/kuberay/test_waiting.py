"""A head that is lost or not ready, and how long a job has waited."""

from __future__ import annotations

import time

import pytest

from orchestrator.kuberay.client import Client
from orchestrator.kuberay.follower import Follower
from orchestrator.kuberay.watch import Change
from tests.support.kuberay import QUICK, Serve, serving, settings
from tests.support.starting_job import job, story

serve = pytest.fixture(serving)


def ready(status: str, reason: str, message: str = "") -> list[dict[str, str]]:
    """The condition of a head."""
    return [{"type": "HeadPodReady", "status": status, "reason": reason, "message": message}]


def running(*conditions: list[dict[str, str]]) -> list[str]:
    """What is told of a running job's head."""
    told = story()
    return [
        line
        for now in conditions
        for line in told.rayjob(job("Running", "RUNNING", now, jobId="j"))
        if line.startswith("head")
    ]


WELL, UNREADY = (
    ready("True", "HeadPodRunningAndReady"),
    ready("False", "ContainersNotReady", "containers with unready status: [ray-head]"),
)


def test_a_probe_that_fails_is_told_as_that_and_not_as_a_lost_head() -> None:
    (line,) = running(WELL, UNREADY, UNREADY)
    assert (
        "is not ready (ContainersNotReady: containers with unready status: [ray-head]): a probe of it fails"
        in line
        and "lost" not in line
    )
    assert running(WELL, UNREADY, WELL)[1:] == ["head     is ready again"]


@pytest.mark.parametrize("reason", ["HeadPodNotFound", "PodFailed", "Unknown", "ContainerCreating"])
def test_a_head_that_is_gone_is_told_as_lost(reason: str) -> None:
    lost = f"head     lost ({reason}); a new one is on its way"
    assert running(WELL, ready("False", reason)) == [lost]
    assert running(WELL, UNREADY, ready("False", reason))[1:] == [lost]
    assert running(WELL, ready("False", reason), UNREADY) == [lost], (
        "a new one that does not answer yet"
    )


def test_waiting_is_counted_on_through_a_lost_connection(serve: Serve) -> None:
    serve(None)
    lines: list[str] = []
    mine = Follower(
        Client(settings().cluster), "train", settings().cluster, False, QUICK, lines.append
    )
    mine.take_job(Change("rayjob", "changed", job("Initializing")))
    mine.waiting_since -= 500
    for change in (
        Change("away", text="gone"),
        Change("back", text="there"),
        Change("note", text="a word"),
    ):
        mine.take(change)
    mine.take_job(Change("rayjob", "changed", job("Initializing", message="another word")))
    assert 499 < mine.waited() < 520
    mine.reminded -= 100
    mine.remind()
    assert "waiting  for 50" in lines[-1] and "of at most 1800 s" in lines[-1]
    mine.take_job(
        Change("rayjob", "changed", job("Initializing", startTime="2026-11-23T18:00:00Z"))
    )
    assert mine.waited() < 10, "another attempt"


def test_who_comes_back_is_told_how_long_the_job_has_waited_by_the_servers_clock(
    serve: Serve,
) -> None:
    serve(None)
    client = Client(settings().cluster)
    client.allowed("get", "pods")
    assert client.skew_seconds is not None and abs(client.skew_seconds) < 5
    mine = Follower(client, "train", settings().cluster, False, QUICK, print)
    client.skew_seconds += 7000  # of another machine
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7000 - 300))
    mine.take_job(Change("rayjob", "changed", job("Initializing", startTime=moment)))
    assert 295 < mine.waited() < 310
