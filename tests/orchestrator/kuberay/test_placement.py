"""Pods without a place: which ones they are, the remedy that names their settings, what the job
still holds.
"""

from __future__ import annotations

import time

import pytest

from orchestrator.kuberay import overview, submit
from orchestrator.kuberay.outcome import outcome_of
from orchestrator.kuberay.placement import placement_remedy
from orchestrator.kuberay.reasons import who_is
from tests.support.kuberay import ARGUMENTS, Serve, is_deletion, serving, settings
from tests.support.starting_job import HEAD, NO_ROOM, SPOT, WORKER, event, job, pod, story

serve = pytest.fixture(serving)
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
    deadline = time.monotonic() + 120
    while not any(
        change == "DELETED" and kind == "rayclusters" for _, change, kind, _ in api.history
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    capsys.readouterr()
    assert submit.watch(settings().cluster, name) == 0
    err = capsys.readouterr().err
    assert "finished RayJob" in err and "free them" not in err
