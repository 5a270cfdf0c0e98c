"""Jobs that were submitted are listed, shown, watched, stopped and deleted; an existing cluster is
used through its Jobs API.
"""

from __future__ import annotations

import json

import pytest

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.job_environment import MARK
from orchestrator.kuberay import overview, submit
from tests.support.kuberay import ARGUMENTS, Serve, serving, settings
from tests.support.rayjobs import ANSWER, SWEEP_NAME, names, other, phase, until

serve = pytest.fixture(serving)


def test_jobs_are_listed_with_their_state_and_those_of_others_are_not(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("03")
    submit.run(settings(), ARGUMENTS, None)
    api.scenario = None
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "foreign", "namespace": "slm", "uid": "f"}})
    first, second = sorted(overview.listed(settings().cluster), key=lambda entry: entry.name)
    assert (first.name, first.sweep, first.state, first.where) == (
        SWEEP_NAME,
        SWEEP_NAME,
        "failed",
        "slm",
    )
    assert first.reason is not None
    assert "exit code 3" in first.reason
    assert first.started == "2026-11-23T17:37:38Z"
    assert (second.name, second.sweep, second.state, second.reason) == (
        f"{SWEEP_NAME}-r2",
        SWEEP_NAME,
        "starting",
        None,
    )


@pytest.mark.parametrize(
    ("scenario", "state"),
    [
        ("01", "finished"),
        ("04", "overdue"),
        ("05", "unplaced"),
        ("06a", "refused"),
        ("07", "finished"),
        ("06d", "running"),
    ],
)
def test_every_state_has_its_word(scenario: str, state: str, serve: Serve) -> None:
    serve(scenario, speed=400.0, waits_seconds=0)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    until(lambda: overview.listed(settings().cluster)[0].state == state)


def test_a_job_is_shown_with_its_pods_and_what_it_waits_for(serve: Serve) -> None:
    api = serve("12", speed=400.0, waits_seconds=0, until=lambda entry: entry["t"] > 30)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    until(
        lambda: (
            sum(kind == "pods" for kind, _ in api.things) == 2
            and "HeadPodRunningAndReady" in json.dumps(api.job(SWEEP_NAME))
        )
    )
    shown = overview.show(settings().cluster, SWEEP_NAME)
    assert shown["state"] == "starting"
    assert shown["command"].startswith("python -m orchestrator +sweep=lora")
    assert sorted(shown["pods"].values()) == ["Pending", "Running"]
    assert shown["waits_for"] == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu"
    assert not shown["ray_cluster"].endswith("(gone)")
    json.dumps(shown)


def test_after_its_time_to_live_only_the_cluster_is_gone(serve: Serve) -> None:
    api = serve("11", speed=400.0, waits_seconds=0)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    until(
        lambda: any(
            change == "DELETED" and kind == "rayclusters" for _, change, kind, _ in api.history
        )
    )
    shown = overview.show(settings().cluster, SWEEP_NAME)
    assert (shown["state"], shown["attempts"]) == ("finished", 1)
    assert shown["ray_cluster"].endswith("(gone)")


def test_a_finished_job_is_watched_to_its_answer_as_long_as_its_pod_is_there(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01", speed=400.0, waits_seconds=0, logs=[["plan    lora", MARK, ANSWER]])
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    until(lambda: phase(api, SWEEP_NAME) == "Complete")
    assert submit.watch(settings().cluster, SWEEP_NAME, "json") == 0
    assert capsys.readouterr().out == ANSWER + "\n"


def test_a_stopped_job_loses_its_cluster_and_the_same_command_continues(serve: Serve) -> None:
    api = serve(None)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    assert "the same command again continues it" in submit.stop(settings().cluster, SWEEP_NAME)
    assert api.job(SWEEP_NAME)["spec"]["suspend"] is True
    assert overview.listed(settings().cluster)[0].state == "stopped"
    assert "runs no more (stopped)" in submit.stop(settings().cluster, SWEEP_NAME)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    assert names(api) == [SWEEP_NAME, f"{SWEEP_NAME}-r2"]


def test_under_kueue_a_stopped_job_is_deleted_since_kueue_would_start_it_again(
    serve: Serve,
) -> None:
    api = serve(None)
    submit.run(settings("cluster.detach=true", "cluster.queue=team"), ARGUMENTS, None)
    assert "Kueue would start a suspended job again" in submit.stop(settings().cluster, SWEEP_NAME)
    assert names(api) == []


def test_deleting_waits_until_the_job_is_gone_and_says_what_holds_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(None)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    monkeypatch.setattr(submit, "GONE_SECONDS", 1.0)
    api.holds = True
    with pytest.raises(
        OrchestratorError,
        match="held by: ray.io/rayjob-finalizer\n.*is one running that watches namespace slm",
    ) as caught:
        submit.delete(settings().cluster, SWEEP_NAME)
    assert caught.value.exit_code == 1
    api.holds = False
    assert "deleted" in submit.delete(settings().cluster, SWEEP_NAME)
    assert names(api) == []


def test_a_name_that_does_not_exist_or_is_not_ours_is_refused(serve: Serve) -> None:
    api = serve(None)
    api.put("ADDED", "rayjobs", {"metadata": {"name": "foreign", "namespace": "slm", "uid": "f"}})
    for name in ("nothing", "foreign"):
        for command in (overview.show, submit.stop, submit.delete, submit.watch):
            with pytest.raises(
                InputError, match=f"{name}: no RayJob or sweep of this program there"
            ):
                command(settings().cluster, name)
    assert names(api) == ["foreign"]


def test_a_sweeps_name_leads_to_its_newest_job(serve: Serve) -> None:
    api = serve(None)
    api.put("ADDED", "rayjobs", other("lora-aaaaaa-r2"))
    assert overview.show(settings().cluster, "lora-aaaaaa")["name"] == "lora-aaaaaa-r2"


def test_an_existing_cluster_is_used_through_its_jobs_api(serve: Serve) -> None:
    api = serve(None)
    cluster = settings("cluster.ray_cluster=big").cluster
    with pytest.raises(InputError, match="no such RayCluster in namespace slm; there are: none"):
        submit.address_of(cluster)
    condition = {
        "type": "HeadPodReady",
        "status": "False",
        "reason": "ImagePullBackOff",
        "message": "Back-off pulling",
    }
    big = {
        "metadata": {"name": "big", "namespace": "slm", "uid": "b"},
        "status": {"conditions": [condition]},
    }
    api.put("ADDED", "rayclusters", big)
    with pytest.raises(InputError, match="is not ready .*ImagePullBackOff Back-off pulling"):
        submit.address_of(cluster)
    api.put(
        "MODIFIED",
        "rayclusters",
        {**big, "status": {"state": "ready", "head": {"serviceName": "big-head-svc"}}},
    )
    assert submit.address_of(cluster) == "http://big-head-svc.slm.svc:8265"
