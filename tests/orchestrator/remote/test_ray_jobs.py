"""A running Ray cluster with token authentication, used from outside: the real Jobs API, a real
MLflow server, a connection that breaks.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from jobs.config import BaseModel
from orchestrator.job_environment import RETRIED
from orchestrator.output.log_summary import refused
from tests.conftest import ROOT, environment, finished
from tests.support.apiserver import ApiServer
from tests.support.outside import impatient, outside_command, until, user
from tests.support.servers import TOKEN, Wire, free_port, mlflow_server, ray_head

SMALL = ("train.steps=6", "train.eval_every=3", "train.batch_size=4")


@pytest.fixture(scope="module")
def head(cache: Path) -> Iterator[str]:
    with ray_head(environment(cache)) as address:
        yield address


@pytest.fixture(scope="module")
def tracking(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), environment(cache)) as address:
        yield address


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def wire(head: str) -> Iterator[Wire]:
    made = Wire(head)
    yield made
    made.close()


@pytest.fixture(scope="module")
def outside(toy: Path, tracking: str, storage: Path) -> Any:
    return outside_command(toy, tracking, storage)


def test_what_cannot_be_reached_is_one_line_and_code_2(
    outside: Any, head: str, tracking: str
) -> None:
    wrong = f"http://127.0.0.1:{free_port()}"
    asked = {
        "asks for a token": outside(address=head, token=None),
        "refuses this token": outside(address=head, token="wrong"),
        "nothing listens there": outside(address=wrong),
        "but it is no Ray cluster": outside(address=tracking),
        "no such host": outside(address="http://no-such-host.invalid:8265"),
        "is empty": outside("cluster.token_file=/dev/null", address=head, token=None),
        "cluster.token_file=/no/such: No such file": outside(
            "cluster.token_file=/no/such", address=head, token=None
        ),
    }
    for text, process in asked.items():
        done = finished(process)
        assert (done.code, done.out) == (2, ""), done.err
        assert text in done.err and len(done.err.strip().splitlines()) == 1, done.err
        assert TOKEN not in done.err


@pytest.fixture(scope="module")
def asked(
    outside: Any,
    head: str,
    base: BaseModel,
    toy: Path,
    storage: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Commands that end with a plan, or before it: started together, since each of them mostly
    waits.
    """
    shared, changed = storage / "toy", tmp_path_factory.mktemp("changed")
    shutil.copytree(toy, shared)
    for part in ("orchestrator", "jobs", "conf", "data"):
        shutil.copytree(ROOT / part, changed / part)
    mixture = changed / "jobs" / "data" / "mixture.py"
    mixture.write_text(mixture.read_text() + "# changed\n")
    image = ("dry_run=true", "cluster.code=image", f"data.folder={shared}", "output=text")
    made = {
        "too large": outside("train.num_workers=3", "train.batch_size=6", address=head),
        "plan": outside(
            "dry_run=true",
            "output=text",
            "model.source=path",
            f"model.path={base.path}",
            address=head,
        ),
        "same code": outside(*image, address=head),
        "other code": outside(
            *image, "seed=1", address=head, root=changed
        ),  # not the same command: that would be followed
    }
    yield made
    for process in made.values():
        process.kill()


def test_work_that_never_fits_is_refused_by_the_cluster_with_the_numbers(
    asked: dict[str, subprocess.Popen[str]],
) -> None:
    done = finished(asked["too large"])
    assert done.code == 2, done.err
    assert "3 workers of 1 cores do not fit into 1 node of 2 CPU cores" in done.err
    assert "Traceback" not in done.err


def test_a_dry_run_is_the_clusters_own_plan(asked: dict[str, subprocess.Popen[str]]) -> None:
    done = finished(asked["plan"])
    assert done.code == 0, done.err
    assert re.search(r"^plan    run-\w{6} · .* · attached$", done.out, re.MULTILINE)
    assert re.search(r"base model at /.*/shipped/.*: it comes with the code", done.out)


def test_code_that_is_there_already_is_used_if_it_is_the_same(
    asked: dict[str, subprocess.Popen[str]],
) -> None:
    same, other = finished(asked["same code"]), finished(asked["other code"])
    assert same.code == 0, same.err
    assert "what the image of" in same.err and "MiB" not in same.err
    assert other.code == 2
    assert re.search(
        r"the cluster has the code of this project \w{12}, the machine that sent the command \w{12}; build the image",
        other.err,
    )


def test_detached_the_command_returns_once_the_job_is_accepted(outside: Any, head: str) -> None:
    done = finished(outside("dry_run=true", "cluster.detach=true", address=head))
    name = re.search(r"^job     (\S+) on", done.err, re.MULTILINE)
    assert done.code == 0 and done.out == "" and name
    watched = finished(outside("watch", name[1], "--address", head, module="orchestrator.runs"))
    assert watched.code == 0 and '"plan"' in watched.out


def test_a_lost_connection_costs_nothing_and_the_result_comes_once(
    outside: Any, wire: Wire, head: str, storage: Path
) -> None:
    process = outside("+sweep=lora", "sweep.num_trials=2", *SMALL, address=wire.address)
    read = until(process, "^plan ")
    wire.cut()
    read += until(process, "^lost ")
    wire.join()
    done = finished(process)
    assert done.code == 0, read + done.err
    assert "the connection is there again" in done.err
    assert (read + done.err).count("trial 1/2") >= 1
    assert len(re.findall(r"^plan ", read + done.err, re.MULTILINE)) == 1, (
        "nothing is printed twice"
    )
    assert len(done.out.strip().splitlines()) == 1
    assert done.result["state"] == "finished"
    assert done.result["model"]["name"].endswith("-tiny")
    local = outside(
        "show", done.result["sweep"], "--storage", str(storage), module="orchestrator.runs"
    )
    again = finished(outside("+sweep=lora", "sweep.num_trials=2", *SMALL, address=head))
    assert again.code == 0 and "is finished; this is its result" in again.err
    assert again.result == done.result
    listed = finished(outside("list", "--address", head, "--json", module="orchestrator.runs"))
    sweeps = [
        record for record in json.loads(listed.out) if record["sweep"] == done.result["sweep"]
    ]
    assert [record["state"] for record in sweeps] == ["finished", "finished"]
    metric = done.result["metric"]
    score = f"{metric} {done.result['best']['metrics'][metric]:.3f}"
    assert [(record["trials"], record["best"]) for record in sweeps] == [("2/2", score)] * 2
    shown = finished(local).out
    assert re.search(r"^state +finished$", shown, re.MULTILINE) and "  2  " in shown


def service_of(head: str) -> Wire:
    """A way to the head through its usual port, at an address that no other test has taken."""
    for last in range(77, 255):
        with contextlib.suppress(OSError):
            return Wire(head, (f"127.0.0.{last}", 8265))
    raise AssertionError("port 8265 is taken on every address of loopback")


def test_a_whole_sweep_runs_on_an_existing_raycluster(
    outside: Any, head: str, tracking: str, tmp_path: Path
) -> None:
    """Its Service has a name of the cluster's own DNS: here a file of hosts that only the command
    sees.
    """
    name = socket.gethostname()
    own = None
    with contextlib.suppress(OSError):
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET)}
        own = next((address for address in found if address.startswith("127.")), None)
    if own is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip(
            "this user may not make mount namespaces, or this machine's name leads out of it"
        )
    service, mlflow = service_of(head), Wire(tracking, (own, 0))
    (tmp_path / "hosts").write_text(
        f"127.0.0.1 localhost\n{own} {name}\n{service.host} big-head-svc.slm.svc\n"
    )
    before = (
        "unshare",
        "-m",
        "sh",
        "-c",
        f'mount --bind {tmp_path}/hosts /etc/hosts && exec "$@"',
        "sh",
    )
    place = ("cluster=kuberay", "cluster.namespace=slm", "cluster.ray_cluster=big")
    with ApiServer() as api:
        status = {"state": "ready", "head": {"serviceName": "big-head-svc"}}
        api.put(
            "ADDED",
            "rayclusters",
            {"metadata": {"name": "big", "namespace": "slm", "uid": "b"}, "status": status},
        )
        done = finished(
            outside(
                *SMALL,
                f"tracking.uri={mlflow.address.replace(own, name)}",
                place=place,
                before=before,
                kubeconfig=api.kubeconfig(tmp_path),
            )
        )
        assert done.code == 0, done.err
        assert api.requests and not [
            line for line in api.requests if "/ray.io/" in line and not line.startswith("GET")
        ]
    service.close()
    mlflow.close()
    assert done.result["state"] == "finished" and done.result["model"]["version"] >= 1
    assert "big-head-svc.slm.svc:8265" in done.err


def test_ctrl_c_lets_go_and_the_sweep_can_be_watched_stopped_continued_and_deleted(
    outside: Any, head: str, wire: Wire
) -> None:
    long = ("train.steps=100000", "train.eval_every=50000", "train.batch_size=4")
    process = outside(*long, address=head)
    read = until(process, "^trial .* step ")
    process.send_signal(signal.SIGINT)
    done = finished(process)
    assert done.code == 130, done.err
    name = re.search(r"^job     (\S+) on", read, re.MULTILINE)
    assert name and f"runs watch {name[1]} --address {head}" in done.err
    runs = {"module": "orchestrator.runs"}
    again = outside(*long, address=head)
    assert f"{name[1]} runs already; this follows it" in until(again, "runs already")
    questions = (
        outside("delete", name[1], "--address", head, **runs),
        outside(*long, "fresh=true", address=head),
    )
    refused, anew, expired = (
        finished(process) for process in (*questions, impatient("expired", name[1], head))
    )
    assert refused.code == 2 and "stop it first" in refused.err
    assert (
        anew.code == 2
        and f"fresh=true, and job {name[1]} of the same command runs; stop it first" in anew.err
    )
    assert (
        expired.code == 1
        and f"job {name[1]} may go on, but cluster.address={head}: the cluster refuses this token"
        in expired.err
    )
    silent = Wire(head)
    frozen, lost = (
        impatient("watch", name[1], silent.address),
        impatient("watch", name[1], wire.address),
    )
    until(frozen, "^trial .* step ")
    silent.freeze()
    until(lost, "^trial .* step ")
    wire.cut()
    done = finished(lost)
    assert done.code == 1 and "has not answered for 2 s; it may go on\nnext    " in done.err
    assert f"python -m orchestrator.runs watch {name[1]} --address" in done.err
    printed = refused.err.partition("stop it first: ")[2].strip()
    stopped = subprocess.run(
        ["bash", "-c", printed],
        env=user(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert stopped.returncode == 0, f"{printed}: {stopped.stderr}"
    assert finished(again).code == 1
    end = finished(frozen)
    assert end.code == 1 and f"stopped job {name[1]}" in end.err and "lost " not in end.err
    silent.close()
    watched = finished(outside("watch", name[1], "--address", head, **runs))
    assert watched.code == 1 and "the same command continues" in watched.err
    assert finished(outside("delete", name[1], "--address", head, **runs)).code == 0
    after = outside("show", name[1], "--address", head, **runs), impatient("follow", name[1], head)
    gone, unknown = (finished(process) for process in after)
    assert gone.code == 2 and f"no sweep {name[1]}" in gone.err
    assert (
        unknown.code == 1
        and "does not know it any more; was the cluster restarted? The same command continues"
        in unknown.err
    )


@pytest.mark.parametrize(
    ("retried", "status", "told"), [("true", "STOPPED", True), ("", "FAILED", False)]
)
def test_bad_input_in_a_rayjob_stops_its_own_job_since_one_that_fails_is_tried_again(
    outside: Any, head: str, retried: str, status: str, told: bool
) -> None:
    # Not by RAY_AUTH_TOKEN, which Ray reads once in a process and another test may have had it
    # read.
    client = JobSubmissionClient(head, headers={"Authorization": f"Bearer {TOKEN}"})
    variables = {"PYTHONPATH": str(ROOT), **({RETRIED: retried} if retried else {})}
    name = client.submit_job(
        entrypoint=f"{sys.executable} -m orchestrator optim.lrr=1",
        runtime_env={"env_vars": variables},
    )
    deadline = time.monotonic() + 500
    while not (job := client.get_job_info(name)).status.is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(name)
        time.sleep(0.2)
    log = client.get_job_logs(name)
    assert job.status == status, log
    assert "no such setting; did you mean optim.lr?" in log
    assert refused(log) == told
