"""Every recorded way of a job, from its creation to its end: told apart, told with its reason, and
with the right exit code.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from orchestrator.config.cluster import Cluster
from orchestrator.kuberay import overview, submit
from orchestrator.kuberay.client import Client
from orchestrator.kuberay.follower import Follower
from orchestrator.kuberay.status import StatusReporter
from orchestrator.kuberay.watch import Change
from tests.support.apiserver import Fault
from tests.support.kuberay import (
    ARGUMENTS,
    QUICK,
    Serve,
    impatient,
    is_deletion,
    numbered,
    replaced,
    serving,
    settings,
)

serve = pytest.fixture(serving)
AGAIN = "the same command again continues what is finished"

SCENARIOS = {
    "01": (0, ["starting cluster", "is up", "running  ", "hello from the driver", "finished RayJob"], ["failed", "lost", "waiting"]),
    "02": (1, ["failed   attempt 1: AppFailed: Job entrypoint command failed with exit code 3; attempt 2 of 2", "exit code 3 after 2 attempts", "    epoch 1\n", AGAIN], ["restart", "head     ", "INFO", "\x1b"]),
    "03": (1, ["failed: the command on the cluster ended with exit code 3:", "    epoch 1\n", AGAIN], ["attempt", "RayJob lora"]),
    "04": (1, ["overdue: the job took longer", "ActiveDeadlineSeconds: 25", "cluster.active_deadline_seconds=SECONDS"], ["failed:"]),
    "05": (1, ["waiting  ", "unplaced: ", "failed to resolve reference", "check cluster.image"], ["failed:"]),
    "06a": (2, ["refused: the KubeRay operator", "shutdownAfterJobFinishes set to false is not allowed to be suspended", "runs delete lora-"], ["waiting"]),
    "06b": (2, ["refused: the KubeRay operator", "mutually exclusive"], ["waiting"]),
    "06c": (2, ["refused: the KubeRay operator", "no more than 47 characters"], ["waiting"]),
    "06d": (1, ["lost: the operator says Running", "has submitted nothing to the head", "8265", "runs watch lora-", "runs stop lora-"], ["finished", "runs delete"]),
    "07": (1, ["stopping the cluster", "stopped: RayJob", "was suspended", AGAIN], ["running  "]),
    "07b": (1, ["running  ", "stopping the cluster", "stopped: RayJob", "was suspended", AGAIN], []),
    "08": (1, ["running  ", "deleted: someone deleted RayJob", "while it was Running RUNNING", AGAIN], ["failed"]),
    "09": (1, ["waiting  pods ", 'violates PodSecurity "restricted:latest"', "unplaced: ", "Pod Security refuses the pod"], ["\nwaiting  FailedToCreate"]),
    "10": (1, ["does not answer since 2026-11-23T17:41:50Z", "restart  the head was replaced and the job submitted again", "overdue: "], ["attempt"]),
    "10b": (0, ["does not answer since", "restart  the head was replaced", "finished RayJob"], ["attempt", "lost"]),
    "11": (0, ["finished RayJob"], ["deleted", "lost"]),
    "12": (1, ["waiting  0/1 nodes are available: 1 Insufficient nvidia.com/gpu\n", "unplaced: ", "ask for less (cluster.worker_cpus"], ["preemption"]),
    "13": (0, ["running  ", "finished RayJob"], ["waiting"]),
}  # fmt: skip
"""Scenario -> exit code, what must be told in this order, what must not be told."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_recorded_ending_is_told_apart(
    scenario: str,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, told, untold = SCENARIOS[scenario]
    if scenario == "06d":  # in which nothing more comes
        impatient(monkeypatch, unsubmitted_seconds=1.0)
    serve(scenario)
    assert submit.run(settings(), ARGUMENTS, None) == code
    out, err = capsys.readouterr()
    assert out == ""
    place = 0
    for words in sorted(told, key=lambda words: words == "hello from the driver"):
        found = err.find(words, 0 if words == "hello from the driver" else place)
        assert found >= 0, f"{words!r} is missing in:\n{err}"
        place = max(place, found)
    for words in untold:
        assert words not in err


@pytest.mark.parametrize(
    ("scenario", "why"),
    [("05", "not found"), ("09", "violates PodSecurity"), ("12", "Insufficient nvidia.com/gpu")],
)
def test_who_comes_back_after_a_job_found_no_place_is_still_told_why(
    scenario: str, why: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve(
        scenario, speed=400.0, waits_seconds=0, until=is_deletion
    )  # its pods stay for a while
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    deadline = time.monotonic() + 120
    while (status := api.job(name).get("status", {})).get("jobDeploymentStatus") != "Failed":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status["reason"] == "PreRunningDeadlineExceeded"
    assert submit.watch(settings().cluster, name) == 1
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("unplaced: ")
    ]
    assert why in line
    assert why in overview.show(settings().cluster, name)["waits_for"]


def test_there_is_a_scenario_for_every_recording() -> None:
    from tests.support.conversation import RECORDINGS

    assert {file.name.split("-")[0] for file in RECORDINGS.glob("[0-9]*.jsonl")} == set(SCENARIOS)


@pytest.mark.parametrize("scenario", ["07", "07b"])
def test_under_kueue_a_suspended_job_waits_in_its_queue_and_goes_on(
    scenario: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve(scenario, kueue=True)
    owner = {"kind": "RayJob"}
    condition = {
        "type": "QuotaReserved",
        "status": "False",
        "reason": "Pending",
        "message": "insufficient unused quota for cpu, 4 more needed",
    }
    workload = {
        "metadata": {"name": "w", "uid": "w", "ownerReferences": [owner]},
        "status": {"conditions": [condition]},
    }
    others = {
        "metadata": {"name": "v", "uid": "v", "ownerReferences": [{"uid": "x"}]},
        "status": {"conditions": [{**condition, "message": "not ours"}]},
    }
    create = api.put

    def put(change: str, kind: str, thing: dict[str, Any]) -> dict[str, Any]:
        made = create(change, kind, thing)
        if (
            kind == "rayjobs"
            and made.get("status", {}).get("jobDeploymentStatus") == "Suspended"
            and ("workloads", "w") not in api.things
        ):
            owner["uid"] = made["metadata"]["uid"]
            create("ADDED", "workloads", others)
            create("ADDED", "workloads", workload)
        return made

    api.put = put  # type: ignore[method-assign]
    assert submit.run(settings("cluster.queue=team"), ARGUMENTS, None) == 0
    err = capsys.readouterr().err
    assert "queued   in team" in err
    assert "waiting  queue team: insufficient unused quota for cpu, 4 more needed" in err
    assert "not ours" not in err
    assert err.index("queued") < err.index("finished RayJob")


def condition(
    kind: str, status: str, message: str, reason: str = "", when: str = "2026-11-23T17:40:00Z"
) -> dict[str, str]:
    """One condition of a Workload of Kueue."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": when,
    }


def test_each_preemption_by_kueue_and_each_admission_after_it_is_told() -> None:
    story = StatusReporter("train", Cluster(namespace="s", queue="team"))
    full = condition(
        "QuotaReserved", "False", "insufficient unused quota for cpu,\n 4 more needed", "Pending"
    )
    admitted = [condition("Admitted", "True", "The workload is admitted")]
    evicted = [
        condition(
            "Evicted",
            "True",
            "Preempted to accommodate a workload (UID: x) of higher priority",
            "Preempted",
        )
    ]
    again = [condition("Admitted", "True", "The workload is admitted", when="2026-11-23T18:00:00Z"), condition("Evicted", "False", "Previously: Preempted")]  # fmt: skip
    told = [
        story.workload({"status": {"conditions": now}})
        for now in ([full], admitted, admitted, evicted, [full, *evicted], again, again)
    ]
    assert told[0] == ["waiting  queue team: insufficient unused quota for cpu, 4 more needed"]
    assert told[1] == ["admitted by Kueue: The workload is admitted"] and told[2] == []
    assert (
        told[3]
        == [
            "evicted  by Kueue: Preempted: Preempted to accommodate a workload (UID: x) of higher priority"
        ]
        and told[4] == []
    )
    assert told[5] == ["admitted by Kueue: The workload is admitted"] and told[6] == []


def test_a_queue_that_is_full_for_too_long_ends_the_wait_and_leaves_the_job(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve("07", until=lambda entry: entry["t"] > 1)
    assert (
        submit.run(settings("cluster.queue=team", "cluster.wait_seconds=1"), ARGUMENTS, None) == 1
    )
    err = capsys.readouterr().err
    assert "unplaced: still queued after cluster.wait_seconds=1" in err
    assert "runs watch lora-" in err


def test_while_a_job_waits_it_says_now_and_then_for_what(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("12", speed=20.0)
    impatient(monkeypatch, remind_seconds=0.3)
    assert submit.run(settings(), ARGUMENTS, None) == 1
    err = capsys.readouterr().err
    assert (
        len(
            re.findall(
                r"waiting  for \d s of at most 1800 s: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu\n",
                err,
            )
        )
        >= 2
    )


def test_watches_that_end_by_themselves_are_taken_up_again(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.kuberay.client.WATCH_SECONDS", 1)
    api = serve("01", speed=20.0)
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert sum("rayjobs?" in request and "watch=1" in request for request in api.requests) > 1
    err = capsys.readouterr().err
    assert [
        err.count(words) for words in ("starting cluster", "is up", "running  ", "finished")
    ] == [1, 1, 1, 1]
    assert "connection" not in err


def test_what_was_not_seen_for_want_of_a_connection_is_not_silence(serve: Serve) -> None:
    serve(None)
    cluster = settings().cluster
    follower = Follower(Client(cluster), "x", cluster, False, QUICK, lambda line: None)
    follower.story.phase, follower.story.seen_by_operator = ("Running", ""), True
    follower.since -= 1000
    assert "has submitted nothing" in getattr(follower.overdue(), "text", "")
    follower.take(Change("away", text="gone"))
    follower.since -= 1000
    assert follower.overdue() is None
    follower.take(Change("back"))
    assert follower.overdue() is None
    follower.since -= 1000
    assert follower.overdue() is not None


@pytest.mark.parametrize(
    ("phase", "setting", "told"),
    [
        ("Initializing", "wait_seconds", "is Initializing after"),
        ("Running", "active_deadline_seconds", "is Running RUNNING after"),
    ],
)
def test_a_deadline_that_passes_without_a_word_means_that_the_operator_is_gone(
    phase: str, setting: str, told: str, serve: Serve
) -> None:
    serve(None)
    cluster = settings(f"cluster.{setting}=100").cluster
    follower = Follower(Client(cluster), "x", cluster, False, QUICK, lambda line: None)
    status = {
        "jobDeploymentStatus": phase,
        "jobStatus": "RUNNING" if phase == "Running" else "",
        "startTime": "2020-01-01T00:00:00Z",
    }
    assert (
        follower.take_job(Change("rayjob", "changed", {"metadata": {"uid": "1"}, "status": status}))
        is None
    )
    follower.since, follower.attempt_since = follower.since - 150, follower.attempt_since - 150
    assert follower.overdue() is None, "the operator has some time to end it"
    follower.since, follower.attempt_since = follower.since - 100, follower.attempt_since - 100
    end = follower.overdue()
    assert end is not None and (end.code, end.state) == (1, "lost")
    assert (
        told in end.text
        and f"although cluster.{setting}=100 has passed" in end.text
        and "does the KubeRay operator still run" in end.text
    )


def test_a_reason_for_waiting_is_forgotten_once_the_cluster_is_up() -> None:
    story = StatusReporter("train", Cluster(namespace="s"))
    story.pod(
        {
            "metadata": {"name": "p"},
            "status": {
                "conditions": [
                    {"type": "PodScheduled", "reason": "Unschedulable", "message": "no room"}
                ]
            },
        }
    )
    assert story.waits_for == "no room"
    story.rayjob(
        {
            "metadata": {},
            "status": {"jobDeploymentStatus": "Running", "rayClusterName": "train-abcde"},
        }
    )
    assert story.waits_for == ""


def test_without_an_operator_the_job_is_not_waited_for(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, unseen_seconds=1.0)
    serve(None)
    assert submit.run(settings(), ARGUMENTS, None) == 1
    assert "no KubeRay operator has looked at RayJob" in capsys.readouterr().err


def test_the_log_of_each_attempt_is_heard(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve("02", speed=10.0, logs=[["first attempt"], ["second attempt"]])
    submit.run(settings(), ARGUMENTS, None)
    err = capsys.readouterr().err
    assert err.index("first attempt") < err.index("second attempt")


def test_an_exit_code_of_2_is_bad_input_there_as_here(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("03")
    create = api.put
    api.put = lambda change, kind, thing: create(
        change, kind, replaced(thing, "exit code 3", "exit code 2")
    )  # type: ignore[method-assign]
    assert submit.run(settings(), ARGUMENTS, None) == 2
    assert "correct what it says and submit again" in capsys.readouterr().err


def test_a_log_of_a_node_with_another_clock_and_zone_is_heard_whole(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node stamps lines in its own zone, and its clock is set back in the middle; the log breaks
    before that and is taken up again.
    """
    api = serve("01", speed=20.0, logs=[numbered(40)])
    api.log_lines = lambda pod: [stamped(number, line) for number, line in enumerate(numbered(40))]  # type: ignore[method-assign]
    api.faults = [Fault("/log", "cut", 7, 1)]
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("line ")
    ] == numbered(40)
    assert [line for line in api.requests if "sinceTime=2026-11-23T17" in line]


def stamped(number: int, line: str) -> str:
    """A line of a log of a node two hours east, whose clock is set back by ten seconds at the
    twentieth.
    """
    return f"2026-11-23T19:40:{number + 10 if number < 20 else number:02}.5+02:00 {line}"
