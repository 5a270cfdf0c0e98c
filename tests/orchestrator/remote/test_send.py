"""The command line for Kubernetes as a user runs it: the real program in a process of its own,
against the stand-in API server over HTTP.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.job_environment import MARK
from tests.conftest import ROOT, Finished
from tests.support.apiserver import Fault
from tests.support.kuberay import DIGEST, SHARED, Serve, serving

serve = pytest.fixture(serving)
ANSWER = '{"sweep": "run-abc123", "state": "finished", "trials": {"finished": 2, "stopped": 0, "failed": 0, "total": 2}}'


@pytest.fixture
def kubernetes(tmp_path: Path, cache: Path) -> Any:
    """`kubernetes(*arguments)` runs the command where KUBECONFIG leads to the stand-in."""

    def run(*arguments: str, module: str = "orchestrator") -> Finished:
        usual = [
            "cluster=kuberay",
            "cluster.namespace=slm",
            f"cluster.image={DIGEST}",
            "model=tiny",
            *SHARED,
        ]
        line = [
            sys.executable,
            "-m",
            module,
            *(usual if module == "orchestrator" else []),
            *arguments,
        ]
        known = {**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRATOR_CACHE": str(cache)}
        done = subprocess.run(
            line, capture_output=True, text=True, env=known, cwd=tmp_path, timeout=500
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def test_a_dry_run_prints_the_plan_and_a_manifest_that_can_be_applied(
    kubernetes: Any, tmp_path: Path
) -> None:
    text = kubernetes("+sweep=lora", "dry_run=true", "cluster.worker_gpus=1", "cluster.workers=3")
    assert text.code == 0, text.err
    manifest = yaml.safe_load(text.out)
    assert manifest["kind"] == "RayJob"
    assert "6 trials in 3 packs of 2 slots on 1 GPU each · kuberay" in text.out
    line = kubernetes(
        "+sweep=lora", "dry_run=true", "cluster.worker_gpus=1", "cluster.workers=3", "output=json"
    )
    assert len(line.out.strip().splitlines()) == 1
    told = json.loads(line.out)
    assert set(told) == {"plan", "manifest"}
    assert (
        told["plan"]["name"] == told["manifest"]["metadata"]["name"] == manifest["metadata"]["name"]
    )
    assert told["plan"]["resources"]["nodes"] == [{"cpus": 4, "gpus": 1, "count": 3}]
    assert not list(tmp_path.iterdir())


def test_paths_are_named_as_the_pods_see_them(kubernetes: Any) -> None:
    data = f"data.valid={ROOT}/data/home/valid.jsonl"
    done = kubernetes(
        "dry_run=true", "output=json", data, "model=path", "model.path=/mnt/shared/models/a"
    )
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["plan"] is None, "the model is not on this machine"
    assert "data.valid=/app/data/home/valid.jsonl" in told["manifest"]["spec"]["entrypoint"].split()


def test_all_mistakes_come_at_once_and_nothing_is_run_here(kubernetes: Any, tmp_path: Path) -> None:
    wrong = [
        "cluster.image=slm:latest",
        "storage=outputs",
        "tracking.uri=null",
        "cluster.worker_memory=much",
        "optim.lrr=1",
        "cluster.retries=-1",
    ]
    done = kubernetes(*wrong)
    assert done.code == 2
    for path in (
        "cluster.image",
        "storage",
        "tracking.uri",
        "cluster.worker_memory",
        "optim.lrr",
        "cluster.retries",
    ):
        assert f"  {path} " in done.err, done.err
    assert "conf: 6 problems" in done.err
    assert not list(tmp_path.iterdir())


def test_work_that_no_pod_holds_is_refused_before_anything_is_sent(
    kubernetes: Any, serve: Serve
) -> None:
    api = serve("01")
    done = kubernetes("train.cpus_per_worker=8")
    assert done.code == 2
    assert "1 workers of 8 cores do not fit into 1 node of 4 CPU cores" in done.err
    crowded = kubernetes(
        "+sweep=lora", "sweep.num_trials=200", "cluster.workers=8", "cluster.worker_gpus=1"
    )
    assert crowded.code == 2
    assert (
        "128 trials at a time need 31 GB of memory on the head, which has 9 GB; set sweep.max_concurrent=25"
        in crowded.err
    )
    assert not any(request.startswith("POST") and "rayjobs" in request for request in api.requests)


def test_the_command_follows_its_job_and_the_tool_finds_it_again(
    kubernetes: Any, serve: Serve
) -> None:
    api = serve(
        "01", logs=[["plan    run-abc123", "trial 1/2  lr=0.1  finished at step 20", MARK, ANSWER]]
    )
    done = kubernetes("output=json")
    assert (done.code, done.out) == (0, ANSWER + "\n"), done.err
    name = next(iter(api.things))[1]
    listed = kubernetes("list", "--namespace", "slm", "--json", module="orchestrator.runs")
    (record,) = json.loads(listed.out)
    assert (record["name"], record["state"], record["trials"]) == (name, "finished", "2/2")
    shown = kubernetes("show", "--namespace", "slm", name, module="orchestrator.runs").out
    assert f" {name}\n" in shown and "lr=0.1  finished at step 20" in shown
    assert (
        "runs no more"
        in kubernetes("stop", name, "--namespace", "slm", module="orchestrator.runs").out
    )
    api.scenario, api.faults = None, [Fault("DELETE", "lost")]
    gone = kubernetes("delete", name, "--namespace", "slm", module="orchestrator.runs")
    assert gone.code == 0, gone.err
    for other in (name, "{x}", "{}"):
        missing = kubernetes("show", other, "--namespace", "slm", module="orchestrator.runs")
        assert missing.code == 2 and f"{other}: no RayJob" in missing.err
    nowhere = kubernetes("list", "--namespace", "elsewhere", module="orchestrator.runs")
    assert nowhere.code == 2 and "has no namespace elsewhere" in nowhere.err


def test_from_outside_an_existing_cluster_is_reached_through_a_forwarded_port(
    serve: Serve, tmp_path: Path
) -> None:
    api = serve(None)
    status = {"state": "ready", "head": {"serviceName": "big-head-svc"}}
    api.put(
        "ADDED",
        "rayclusters",
        {"metadata": {"name": "big", "namespace": "slm", "uid": "b"}, "status": status},
    )
    line = [
        sys.executable,
        "-m",
        "orchestrator",
        "cluster=kuberay",
        "cluster.namespace=slm",
        "cluster.ray_cluster=big",
        "model=tiny",
    ]
    line += [
        "storage=/mnt/shared/outputs",
        "tracking.uri=http://mlflow.slm.svc:5000",
        "cluster.image=null",
    ]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        timeout=500,
    )
    assert done.returncode == 2, done.stderr
    assert (
        "port-forward service/big-head-svc 8265, then cluster=attached cluster.address=http://localhost:8265"
        in done.stderr
    )
