"""What events and states of a job on Kubernetes mean, as they are told."""

from __future__ import annotations

import pytest

from orchestrator.config.cluster import Cluster
from orchestrator.kuberay.placement import placement_remedy
from orchestrator.kuberay.status import StatusReporter
from orchestrator.kuberay.watch import parts
from tests.support.apiserver import recording
from tests.support.kuberay import serving

serve = pytest.fixture(serving)


def story_of(scenario: str, kind: str) -> tuple[StatusReporter, list[str]]:
    """What a story tells of one kind of recorded change."""
    story = StatusReporter("train", Cluster(namespace="s"))
    take = {"pods": story.pod, "events": story.event, "rayjobs": story.rayjob}[kind]
    return story, [
        line
        for entry in recording(scenario)
        if entry["kind"] == kind
        for line in take(entry["object"])
    ]


def test_a_pod_that_was_evicted_or_ran_out_of_memory_is_told() -> None:
    story = StatusReporter("train", Cluster(namespace="s"))
    pod = {
        "metadata": {"name": "train-abcde-workers-worker-x2x2x"},
        "status": {
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByTaintManager",
                    "message": "the node goes",
                }
            ],
            "containerStatuses": [
                {
                    "name": "ray-worker",
                    "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                }
            ],
        },
    }
    lines = story.pod(pod)
    assert "DeletionByTaintManager: the node goes" in lines[0]
    assert "ray-worker took more than its limit" in lines[1]
    assert story.pod(pod) == []
    again = {
        "name": "log",
        "state": {"running": {}},
        "lastState": {"terminated": {"reason": "OOMKilled"}},
    }
    assert (
        "log took more than its limit"
        in story.pod({"metadata": {"name": "x"}, "status": {"containerStatuses": [again]}})[0]
    )


PLACES = {
    '0/3 nodes are available: persistentvolumeclaim "shared" not found': "cluster.claim",
    "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims": "Bound",
    "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector": "cluster.worker_selector",
    "0/3 nodes are available: 3 node(s) had untolerated taint(s) {team: a}": "taint",
    "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s)": "cluster.worker_cpus",
    'CreateContainerConfigError: secret "ray-token" not found': "cluster.token_secret",
    'MountVolume.SetUp failed for volume "x" : secret "y" not found': "cluster.environment_secrets",
    'pods "x-head" is forbidden: error looking up service account slm/ray: serviceaccount "ray" not found': "cluster.service_account",
    "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'pinned-images' with binding 'a' denied request: b": "who keeps the policy",
    'pods "x" is forbidden: exceeded quota: pods, requested: cpu=4': "free some of the quota",
    "something new": "kubectl describe",
}
"""Why a pod waits, in Kubernetes' words -> what the remedy names."""


@pytest.mark.parametrize(("why", "remedy"), PLACES.items())
def test_each_reason_for_having_no_place_has_its_remedy(why: str, remedy: str) -> None:
    assert remedy in placement_remedy(why)


def test_repeated_events_of_one_cause_are_told_once() -> None:
    assert len(story_of("09", "events")[1]) == 1
    assert len(story_of("05", "events")[1]) == 1


def test_events_from_before_the_job_are_about_an_earlier_one_of_its_name() -> None:
    story = StatusReporter("train", Cluster(namespace="s"))
    story.rayjob({"metadata": {"creationTimestamp": "2026-11-23T17:44:39Z"}})
    event = {
        "involvedObject": {"name": "train-abcde-head-xyzab"},
        "type": "Warning",
        "reason": "FailedScheduling",
        "message": "no room",
    }
    assert story.event({**event, "eventTime": "2026-11-23T17:44:38.9Z"}) == []
    assert story.event(
        {**event, "message": "in its second", "eventTime": "2026-11-23T17:44:39.5Z"}
    ) == ["waiting  in its second"]
    assert story.event({**event, "eventTime": None, "lastTimestamp": "2026-11-23T17:44:40Z"}) == [
        "waiting  no room"
    ]


def test_events_of_another_job_are_not_ours() -> None:
    story = StatusReporter("lora-7f3a91", Cluster(namespace="s"))
    ours = ["lora-7f3a91", "lora-7f3a91-abcde", "lora-7f3a91-abcde-head-xyzab"]
    others = [
        "lora-7f3a91-r2",
        "lora-7f3a91-r2-abcde",
        "lora-7f3a9",
        "xlora-7f3a91-abcde",
        "lora-7f3a91x-abcde",
    ]
    assert [story.is_ours({"name": name}) for name in ours] == [True] * len(ours)
    assert [story.is_ours({"name": name}) for name in others] == [False] * len(others)


def test_times_of_log_lines_compare_by_their_value() -> None:
    stamps = [
        "2026-11-23T17:47:51Z",
        "2026-11-23T17:47:51.5Z",
        "2026-11-23T17:47:51.50001Z",
        "2026-11-23T17:47:52Z",
    ]
    stamps += ["2026-11-23T19:47:52.5+02:00", "2026-11-23T12:17:53-05:30"]
    stamps.reverse()
    assert sorted(stamps, key=lambda stamp: parts(stamp) or ("", "")) == stamps[::-1]
    assert parts("hello") is None
