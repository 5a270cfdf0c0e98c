"""A sweep and its RayJob: either is found by the name of the other, whoever followed and whether
its log is still there.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from orchestrator import job_environment
from orchestrator.kuberay import manifest, submit
from orchestrator.kuberay import names as names_of_jobs
from orchestrator.kuberay.names import COMMAND
from orchestrator.output.remote_state import RemoteState, as_line
from orchestrator.runs import cli
from orchestrator.tracking import provenance
from tests.support.apiserver import ApiServer
from tests.support.kuberay import ARGUMENTS, Serve, serving, settings
from tests.support.rayjobs import SWEEP_NAME, other

serve = pytest.fixture(serving)
OWN = "lora-c0ffee"
PLANNED = as_line(RemoteState(sweep=OWN))
FINISHED = as_line(RemoteState(OWN, 6, 6, "test/exact_match 0.412"))
KUBERNETES = ["--namespace", "slm"]


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """What `runs ... --json` answers."""
    capsys.readouterr()
    assert cli.main([*arguments, *KUBERNETES, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def the_job(api: ApiServer) -> dict[str, Any]:
    """The only RayJob."""
    (job,) = [thing for (kind, _), thing in api.things.items() if kind == "rayjobs"]
    return job


@pytest.mark.parametrize("line", [PLANNED, FINISHED])
@pytest.mark.parametrize("output", ["text", "json"])
def test_who_follows_writes_the_sweeps_own_name_to_its_rayjob(
    line: str, output: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the data is not on this machine the sweep's name, a hash of it, is known only there."""
    api = serve("01", speed=20.0, logs=[["ray     starting", line, job_environment.MARK, "{}"]])
    submit.run(settings(f"output={output}"), ARGUMENTS, None)
    assert the_job(api)["metadata"]["annotations"][names_of_jobs.SWEEP_NAME] == OWN
    assert the_job(api)["metadata"]["name"] == SWEEP_NAME
    for name in (OWN, SWEEP_NAME):
        record = shown(["show", name], capsys)
        assert (record["name"], record["sweep"]) == (SWEEP_NAME, OWN)
    (entry,) = shown(["list"], capsys)
    assert (entry["name"], entry["sweep"]) == (SWEEP_NAME, OWN)
    assert cli.main(["list", *KUBERNETES]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:2] == ["name", "sweep"] and table[1].split()[:2] == [SWEEP_NAME, OWN]
    assert cli.main(["delete", OWN, *KUBERNETES]) == 0
    assert not [kind for kind, _ in api.things if kind == "rayjobs"]


def test_where_nobody_followed_the_log_tells_it(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve(
        "01", speed=200.0, waits_seconds=0, logs=[[PLANNED]], until=lambda entry: entry["t"] > 18
    )
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    deadline = time.monotonic() + 120
    while not api.heads or not any(
        kind == "pods"
        and "log" in json.dumps(thing["status"])
        and "running" in json.dumps(thing["status"])
        for (kind, _), thing in api.things.items()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert names_of_jobs.SWEEP_NAME not in the_job(api)["metadata"]["annotations"]
    assert shown(["show", OWN], capsys)["name"] == SWEEP_NAME
    assert shown(["list"], capsys)[0]["sweep"] == OWN
    assert cli.main(["stop", OWN, *KUBERNETES]) == 0


def test_a_name_that_is_known_here_is_written_down_at_once(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "My.Sweep_2-7f3a91"  # Kubernetes takes no such name
    api = serve(None)
    job = manifest.make(settings(), "my-sweep-2-7f3a91", ARGUMENTS, "key", sweep=own)
    job["metadata"] |= {"uid": "1", "creationTimestamp": "2026-11-23T16:00:00Z"}
    api.put("ADDED", "rayjobs", job)
    api.put("ADDED", "rayjobs", other("lora-aaaaaa"))
    for name in (own, "my-sweep-2-7f3a91"):
        assert shown(["show", name], capsys)["sweep"] == own


def test_a_dry_run_and_what_is_sent_carry_the_name_of_the_plan() -> None:
    from orchestrator.plan import planner as planning
    from orchestrator.plan.resources import Node

    config = settings()
    plan = planning.make(config, (Node(4),))
    job = submit.preview(config, ARGUMENTS, plan)
    assert job["metadata"]["annotations"][names_of_jobs.SWEEP_NAME] == plan.name
    assert (
        names_of_jobs.SWEEP_NAME
        not in submit.preview(config, ARGUMENTS, None)["metadata"]["annotations"]
    )


def test_the_runs_of_a_sweep_carry_the_name_of_its_rayjob(monkeypatch: pytest.MonkeyPatch) -> None:
    head = manifest.make(settings(), "lora-7f3a91-r2", ARGUMENTS, "key")["spec"]["rayClusterSpec"][
        "headGroupSpec"
    ]["template"]["spec"]["containers"][0]
    assert "cluster.job" not in provenance.tags(settings())
    for entry in head["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    assert provenance.tags(settings())["cluster.job"] == "lora-7f3a91-r2"
    monkeypatch.delenv(job_environment.JOB)
    assert provenance.tags(settings())["cluster.job"] == "key", (
        "the submission to a running Ray cluster"
    )


def test_the_command_that_a_rayjob_shows_is_the_one_that_was_typed() -> None:
    """Not the one that runs there, which says cluster=attached and works nowhere else."""
    typed = "+sweep=lora cluster=kuberay 'data.instruction=Answer in one word.'"
    job = manifest.make(settings(), "lora-7f3a91", ARGUMENTS, "key", typed)
    assert job["metadata"]["annotations"][COMMAND] == f"python -m orchestrator {typed}"
