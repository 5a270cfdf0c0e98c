"""Only what holds a job up at present is told: reasons that have passed are forgotten, and the
right pods' settings are named.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from orchestrator.config.cluster import Cluster
from orchestrator.kuberay import overview, submit
from orchestrator.kuberay.client import Client
from orchestrator.kuberay.follower import Follower
from orchestrator.kuberay.outcome import outcome_of
from orchestrator.kuberay.placement import placement_remedy
from orchestrator.kuberay.reasons import who_is
from orchestrator.kuberay.status import StatusReporter
from orchestrator.kuberay.watch import Change
from tests.support.apiserver import recording
from tests.support.kuberay import ARGUMENTS, QUICK, Serve, is_deletion, serving, settings

serve = pytest.fixture(serving)
HEAD, WORKER, SPOT = (
    "train-abcde-head-h2h2h",
    "train-abcde-workers-worker-w2w2w",
    "train-abcde-spot-worker-s2s2s",
)
NO_ROOM = "0/3 nodes are available: 3 Insufficient memory"


def story(**cluster: Any) -> StatusReporter:
    """A job whose cluster starts."""
    made = StatusReporter("train", Cluster(namespace="slm", **cluster))
    made.rayjob(job("Initializing"))
    return made


def job(
    deployment: str, state: str = "", conditions: list[dict[str, str]] | None = None, **status: Any
) -> dict[str, Any]:
    """A RayJob in a phase."""
    status = {
        "jobDeploymentStatus": deployment,
        "jobStatus": state,
        "rayClusterName": "train-abcde",
        "startTime": "2026-11-23T17:00:00Z",
        **status,
    }
    return {
        "metadata": {"name": "train", "uid": "1", "creationTimestamp": "2026-11-23T17:00:00Z"},
        "status": {**status, "rayClusterStatus": {"conditions": conditions or []}},
    }


def pod(
    name: str, scheduled: bool | None = None, waiting: str | None = None, phase: str = "Pending"
) -> dict[str, Any]:
    """A pod that has a node, has none, or whose container waits."""
    reason = {} if scheduled else {"reason": "Unschedulable", "message": NO_ROOM}
    conditions = (
        [] if scheduled is None else [{"type": "PodScheduled", "status": str(scheduled), **reason}]
    )
    state = (
        {"waiting": {"reason": waiting, "message": f'Back-off pulling image "{name}"'}}
        if waiting
        else {"running": {}}
    )
    return {
        "metadata": {"name": name, "labels": {}},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"name": "ray", "state": state}],
        },
    }


def event(
    about: str, reason: str, message: str, when: str = "2026-11-23T17:00:05Z", kind: str = "Pod"
) -> dict[str, Any]:
    """A warning about an object."""
    return {
        "involvedObject": {"kind": kind, "name": about},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "eventTime": when,
    }


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
    deadline = time.monotonic() + 10
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


WHO = {
    HEAD: "head",
    WORKER: "workers",
    SPOT: "spot",
    "train-abcde": "",
    "train-abcde-my-gpus-worker-x2x2x": "my-gpus",
}


@pytest.mark.parametrize("name", WHO)
def test_a_pods_name_tells_which_one_it_is(name: str) -> None:
    assert who_is(name) == WHO[name]
    assert who_is("any", {"ray.io/node-type": "head", "ray.io/group": "headgroup"}) == "head"
    assert who_is("any", {"ray.io/node-type": "worker", "ray.io/group": "spot"}) == "spot"


LESS = [
    NO_ROOM,
    "0/1 nodes are available: 1 Insufficient cpu",
    "0/1 nodes are available: 1 Too many pods",
    'pods "x" is forbidden: exceeded quota: q',
]


@pytest.mark.parametrize("why", LESS)
def test_the_remedy_names_the_settings_of_the_pods_that_wait(why: str) -> None:
    head, workers, spot = (placement_remedy(why, (who,)) for who in ("head", "workers", "spot"))
    assert "cluster.head_cpus, head_memory" in head and "worker" not in head
    assert (
        "cluster.worker_cpus, worker_memory, worker_gpus, workers" in workers
        and "head" not in workers
    )
    assert "worker_gpus, spot_workers" in spot and "head" not in spot
    both = placement_remedy(why, ("head", "workers"))
    assert "cluster.head_cpus, head_memory, worker_cpus" in both
    unknown = placement_remedy(why)
    assert "cluster.worker_cpus" in unknown and "cluster.head_cpus" in unknown


def test_the_remedy_for_labels_names_the_selector_of_the_pods_that_wait() -> None:
    why = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector"
    assert "cluster.worker_selector against" in placement_remedy(why, ("workers",))
    assert "cluster.spot_selector against" in placement_remedy(why, ("spot",))
    assert "selector" not in placement_remedy(why, ("head",))


@pytest.mark.parametrize(
    ("name", "told", "untold"),
    [
        (HEAD, "cluster.head_cpus, head_memory", "worker"),
        (WORKER, "cluster.worker_cpus", "head_memory"),
    ],
)
@pytest.mark.parametrize("by", ["pod", "event"])
def test_a_job_without_a_place_ends_with_the_remedy_for_who_waited(
    name: str, told: str, untold: str, by: str
) -> None:
    seen = story()
    if by == "pod":
        seen.pod(pod(name, scheduled=False))
    else:
        seen.event(event(name, "FailedScheduling", NO_ROOM))
    over = job("Failed", reason="PreRunningDeadlineExceeded", message="x")
    seen.rayjob(over)
    end = outcome_of(over, seen)
    assert end is not None and end.state == "unplaced"
    remedy = end.text.splitlines()[1]
    assert told in remedy and untold not in remedy


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


def test_a_job_that_found_no_place_says_what_it_still_holds_and_how_to_free_it(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("12", speed=200.0, waits_seconds=0, until=is_deletion)
    assert submit.run(settings("cluster.ttl_seconds=900"), ARGUMENTS, None) == 1
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    err = capsys.readouterr().err
    assert (
        "its pods and their share of the quota stay for cluster.ttl_seconds=900; free them now: "
        in err
        and "python -m orchestrator.runs delete " in err
    )
    freed = overview.show(settings().cluster, name)["free_the_pods"]
    assert f"python -m orchestrator.runs delete {name} --namespace slm" in freed
    none = outcome_of(job("Failed", reason="PreRunningDeadlineExceeded"), story(ttl_seconds=0))
    assert none is not None and "quota" not in none.text


def test_what_a_job_held_is_not_told_when_its_cluster_is_gone(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("11", speed=400.0, waits_seconds=0)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    deadline = time.monotonic() + 10
    while not any(
        change == "DELETED" and kind == "rayclusters" for _, change, kind, _ in api.history
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    capsys.readouterr()
    assert submit.watch(settings().cluster, name) == 0
    err = capsys.readouterr().err
    assert "finished RayJob" in err and "free them" not in err


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
