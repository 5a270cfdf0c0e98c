"""Only what holds a job up at present is told: reasons that have passed are forgotten."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from orchestrator.config.cluster import Cluster
from orchestrator.kuberay import overview, submit
from orchestrator.kuberay.client import Client
from orchestrator.kuberay.follower import Follower
from orchestrator.kuberay.status import StatusReporter
from tests.support.apiserver import recording
from tests.support.kuberay import ARGUMENTS, QUICK, Serve, is_deletion, serving, settings
from tests.support.starting_job import HEAD, NO_ROOM, WORKER, event, job, pod, story

serve = pytest.fixture(serving)


def test_a_pod_that_has_found_its_node_is_no_reason_any_more() -> None:
    told = story()
    told.event(event(WORKER, "FailedScheduling", NO_ROOM))
    told.pod(pod(WORKER, scheduled=False))
    assert told.waits_for == NO_ROOM
    told.pod(pod(WORKER, scheduled=True))
    assert told.waits_for == ""


def test_an_image_that_was_pulled_after_all_is_no_reason_any_more() -> None:
    told = story()
    told.event(event(HEAD, "Failed", 'Failed to pull image "x": not found'))
    told.pod(pod(HEAD, True, "ImagePullBackOff"))
    assert "pull" in told.waits_for
    told.pod(pod(HEAD, True, phase="Running"))
    assert told.waits_for == ""


def test_of_several_reasons_those_that_still_hold_remain() -> None:
    told = story()
    told.pod(pod(HEAD, scheduled=False))
    told.pod(pod(WORKER, True, "ImagePullBackOff"))
    assert "pulling" in told.waits_for
    told.pod(pod(WORKER, True, phase="Running"))
    assert told.waits_for == NO_ROOM and told.reasons.who == ("head",)
    told.pod_gone(pod(HEAD))
    assert told.waits_for == ""


def test_a_pod_that_the_quota_let_through_after_all_is_no_reason_any_more() -> None:
    told = story()
    forbidden = f'pods "{WORKER}" is forbidden: exceeded quota: pods, requested: cpu=4'
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateWorkerPod",
        "message": f"FailedCreateWorkerPod\n{forbidden}",
    }
    told.event(
        event(
            "train-abcde",
            "FailedToCreateWorkerPod",
            f"Failed to create worker Pod slm/, {forbidden}",
            kind="RayCluster",
        )
    )
    told.rayjob(job("Initializing", conditions=[failure]))
    assert told.waits_for == forbidden and told.reasons.who == ("workers",)
    told.rayjob(
        job(
            "Initializing",
            conditions=[
                {"type": "HeadPodReady", "status": "False", "reason": "ContainersNotReady"}
            ],
        )
    )
    assert told.waits_for == ""


def test_a_queue_that_has_let_the_job_in_is_no_reason_any_more() -> None:
    told = StatusReporter("train", Cluster(namespace="slm", queue="team"))
    full, room = (
        {"type": "QuotaReserved", "status": status, "message": "no quota"}
        for status in ("False", "True")
    )
    told.workload({"status": {"conditions": [full]}})
    assert told.waits_for == "queue team: no quota"
    told.workload({"status": {"conditions": [room]}})
    assert told.waits_for == ""


PASSED = {
    "of a pod that has its node now": [
        pod(WORKER, True, phase="Pending"),
        event(WORKER, "FailedScheduling", NO_ROOM),
    ],
    "of a pod that runs now": [
        pod(HEAD, True, phase="Running"),
        event(HEAD, "FailedMount", "MountVolume.SetUp failed for volume"),
    ],
    "of a pod that is gone": [event("train-zzzzz-head-h0h0h", "FailedScheduling", NO_ROOM)],
    "of an earlier attempt's cluster": [
        event(
            "train-zzzzz", "FailedToCreateHeadPod", "x, quota", "2026-11-23T16:59:00Z", "RayCluster"
        )
    ],
}


@pytest.mark.parametrize("seen", PASSED.values(), ids=PASSED)
@pytest.mark.parametrize("events_first", [False, True])
def test_events_that_have_passed_are_not_told_to_who_comes_later(
    seen: list[dict[str, Any]], events_first: bool
) -> None:
    """The server keeps them for an hour and lists them to everyone who begins to watch; which list
    comes first is chance.
    """
    told = StatusReporter("train", Cluster(namespace="slm"))
    told.holds = True
    told.rayjob(
        {
            **job("Initializing"),
            "metadata": {"name": "train", "uid": "1", "creationTimestamp": "2026-11-23T16:00:00Z"},
        }
    )
    lines = []
    for thing in sorted(seen, key=lambda thing: ("type" in thing) != events_first):
        lines += told.event(thing) if "type" in thing else told.pod(thing)
    assert lines == [] and told.waits_for == ""


def test_events_of_a_pod_that_still_waits_are_told_whichever_list_comes_first() -> None:
    for events_first in (False, True):
        told = story()
        told.holds = True
        mount = event(HEAD, "FailedMount", 'secret "x" not found')
        lines = (
            told.event(mount) if events_first else told.pod(pod(HEAD, True, "ContainerCreating"))
        )
        lines += (
            told.pod(pod(HEAD, True, "ContainerCreating")) if events_first else told.event(mount)
        )
        assert (
            lines == ['waiting  secret "x" not found'] and told.waits_for == 'secret "x" not found'
        )
    blind = story()
    blind.holds = True
    assert blind.event(mount) == []
    assert (
        blind.all_seen()
        == ['waiting  secret "x" not found']
        == blind.event(mount) + [f"waiting  {blind.waits_for}"]
    )


def test_who_comes_to_a_running_job_is_not_told_why_it_once_waited(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recording of a job whose worker found no place, which now has found one: its event is
    still there.
    """
    api = serve("12", speed=400.0, waits_seconds=0, until=lambda entry: entry["t"] > 30)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    deadline = time.monotonic() + 120
    while "HeadPodRunningAndReady" not in json.dumps(api.job(name)) or not any(
        kind == "events" and "Insufficient" in json.dumps(thing)
        for (kind, _), thing in api.things.items()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (worker,) = [
        thing for (kind, key), thing in api.things.items() if kind == "pods" and "worker" in key
    ]
    worker["status"] = {
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [],
    }
    api.put("MODIFIED", "pods", worker)
    assert overview.show(settings().cluster, name)["waits_for"] is None
    capsys.readouterr()
    ended = {
        **api.job(name),
        "status": {
            **api.job(name)["status"],
            "jobDeploymentStatus": "Running",
            "jobStatus": "RUNNING",
        },
    }
    api.put("MODIFIED", "rayjobs", ended)
    mine = Follower(Client(settings().cluster), name, settings().cluster, False, QUICK, print)
    api.until = None
    import threading

    def finish() -> None:
        time.sleep(1.0)
        api.put(
            "MODIFIED",
            "rayjobs",
            {
                **ended,
                "status": {
                    **ended["status"],
                    "jobDeploymentStatus": "Complete",
                    "jobStatus": "SUCCEEDED",
                },
            },
        )

    threading.Thread(target=finish, daemon=True).start()
    assert mine.run().code == 0
    assert "nodes are available" not in capsys.readouterr().out


def test_every_recorded_reason_has_its_pods() -> None:
    for scenario, who in (("12", "gpu"), ("05", "head"), ("09", "head")):
        seen = StatusReporter("train", Cluster(namespace="slm"))
        take = {"pods": seen.pod, "events": seen.event, "rayjobs": seen.rayjob}
        for entry in recording(scenario):
            if is_deletion(entry):
                break
            if entry["kind"] in take:
                take[entry["kind"]](entry["object"])
        assert seen.waits_for and seen.reasons.who == (who,), scenario
