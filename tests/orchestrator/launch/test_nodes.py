"""Several nodes: real raylets of one cluster, packs and trials spread over them, a node that dies,
hosts that lose each other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InputError
from orchestrator.job_environment import WORKERS
from orchestrator.launch import ray_cluster
from orchestrator.plan.resources import Node, Resources
from tests.conftest import ROOT, Finished, environment
from tests.support.servers import BIN, end_all, mlflow_server

FAST = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SMALL = (
    "train.steps=8",
    "train.eval_every=4",
    "train.batch_size=6",
    "train.dtype=float32",
    "train.cpus_per_worker=1",
)
GRID = "sweep.space={lr: {path: optim.lr, type: grid, values: [0.002, 0.01, 0.03]}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without work on it and three nodes of one core."""
    from ray.cluster_utils import Cluster

    before = {name: os.environ.get(name) for name in FAST}
    os.environ.update(FAST)
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": 80 * 2**20,
        },
    )
    for _ in range(3):
        made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def tracking(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), environment(cache)) as address:
        yield address


@pytest.fixture(scope="module")
def inside(cluster: Any, toy: Path, tracking: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`inside(storage, *arguments)` starts the command as it runs on the head of the cluster."""

    def start(storage: Path, *arguments: str) -> subprocess.Popen[str]:
        known = {**os.environ, **FAST, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
        known.pop("ORCHESTRATOR_CACHE", None)
        base = [
            "model=tiny",
            "data=files",
            f"data.folder={toy}",
            "train.max_length=128",
            "output=json",
            "cluster=attached",
        ]
        base += ["cluster.address=auto", f"tracking.uri={tracking}", f"storage={storage}"]
        line = [sys.executable, "-m", "orchestrator", *base, *arguments]
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known, cwd=storage
        )

    return start


def finished(process: subprocess.Popen[str], timeout: float = 280) -> Finished:
    """The command's end."""
    out, err = process.communicate(timeout=timeout)
    return Finished(process.returncode, out, err)


def scores(storage: Path) -> dict[tuple[int, int], float]:
    """Validation loss by trial and step."""
    (file,) = storage.glob("sweeps/*/journal.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        (e["trial"], e["step"]): e["metrics"]["valid/loss"]
        for e in events
        if e["kind"] == "report" and "valid/loss" in e["metrics"]
    }


@pytest.fixture(scope="module")
def alone(command: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], float]:
    """The scores of the three trials on this machine, each by itself."""
    storage = tmp_path_factory.mktemp("alone")
    done = command(*SMALL, GRID, "executor=plain", "cluster.num_cpus=1", f"storage={storage}")
    assert done.code == 0, done.err
    return scores(storage)


def test_three_nodes_give_the_very_scores_of_one(
    inside: Any, alone: dict[tuple[int, int], float], tmp_path: Path
) -> None:
    done = finished(inside(tmp_path, *SMALL, GRID, "executor=plain"))
    assert done.code == 0, done.err
    assert "3 trials, 3 at a time on 1 CPU core each · attached" in done.err
    assert scores(tmp_path) == alone


def test_packs_are_spread_over_the_nodes(
    inside: Any, cluster: Any, alone: dict[tuple[int, int], float], tmp_path: Path
) -> None:
    import ray

    process = inside(tmp_path, *SMALL, GRID)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="critical")
    try:
        busy = 0
        while process.poll() is None and busy < 3:
            per_node = ray._private.state.available_resources_per_node()
            busy = sum(
                node.get("CPU", 0) == 0
                for node in per_node.values()
                if "node:__internal_head__" not in node
            )
            time.sleep(0.2)
    finally:
        ray.shutdown()
    done = finished(process)
    assert done.code == 0, done.err
    assert "3 trials in 3 packs of 1 slot on 1 CPU core each" in done.err
    assert busy == 3, "each node trains a pack"
    assert scores(tmp_path) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("executor", ["plain", "pack"])
def test_one_trial_over_three_nodes_gives_the_result_of_one(
    inside: Any, alone: dict[tuple[int, int], float], tmp_path: Path, executor: str
) -> None:
    done = finished(
        inside(tmp_path, *SMALL, "train.num_workers=3", "optim.lr=0.01", f"executor={executor}")
    )
    assert done.code == 0, done.err
    assert scores(tmp_path) == pytest.approx(
        {(1, step): alone[2, step] for step in (4, 8)}, abs=1e-4
    )


def test_what_waits_for_room_says_for_what_and_gives_up_in_time(
    inside: Any, cluster: Any, tmp_path: Path
) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="critical")
    try:
        taken = ray.util.placement_group([{"CPU": 1}] * 3)
        ray.get(taken.ready())
        done = finished(inside(tmp_path, *SMALL, "cluster.wait_seconds=25"))
        assert done.code == 1, done.err
        assert "1 of 1 packs wait for 1 x (1 CPU cores) each; free now: 0 of 3 CPUs" in done.err
        assert "for longer than cluster.wait_seconds=25" in done.result["error"]
        assert "Traceback" not in done.err
    finally:
        ray.shutdown()


def test_a_command_that_begins_before_its_workers_are_back_waits_for_them(
    inside: Any, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lost head: the job is submitted again as soon as the new one answers."""
    monkeypatch.setenv(WORKERS, "4")
    process = inside(tmp_path, *SMALL, GRID, "dry_run=true", "output=text")
    line = process.stderr.readline()
    assert line == "waiting  for workers: 3 of 4 workers are here, for 0 s of at most 1800 s\n"
    added = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    try:
        done = finished(process)
    finally:
        cluster.remove_node(added)
    assert done.code == 0, done.err
    assert "1 node of 2 CPU cores, 3 nodes of 1 CPU core" in done.out or "3 trials" in done.out, (
        done.out
    )


def test_a_cluster_that_grows_is_planned_as_large_as_it_may_be(cluster: Any) -> None:
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    growing = ClusterConfig()
    for name, cpus, gpus, most in (("head", 0, 0, 1), ("cpu", 8, 0, 2), ("gpu", 16, 4, 3)):
        group = growing.node_group_configs.add()
        group.name, group.max_count = name, most
        group.resources["CPU"], group.resources["GPU"] = cpus, gpus
    ray.init(address=cluster.address, log_to_driver=False, logging_level="critical")
    gcs = GcsClient(address=cluster.address)
    try:
        assert ray_cluster.nodes() == (Node(1),) * 3
        gcs.report_cluster_config(growing.SerializeToString())
        assert ray_cluster.nodes() == (Node(16, 4),) * 3 + (Node(8, 0),) * 2
        with pytest.raises(
            InputError,
            match=r"10000 trials at a time need 2203 GB of memory on the head, .* sweep.max_concurrent=\d+",
        ):
            ray_cluster.check_head(Resources(10_000, 1, 1, 0, (Node(1),)))
    finally:
        gcs.report_cluster_config(ClusterConfig().SerializeToString())
        ray.shutdown()


def test_a_node_that_dies_in_mid_sweep_costs_no_trial(
    inside: Any, cluster: Any, tmp_path: Path
) -> None:
    process = inside(
        tmp_path,
        *SMALL,
        GRID,
        "executor=plain",
        "train.steps=900",
        "train.eval_every=300",
        "sweep.max_concurrent=3",
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    while not any("step 300/900" in line for line in lines):
        assert process.poll() is None, lines
        time.sleep(0.1)
    # Every node trains a trial; the one whose node is gone goes on where another one has ended.
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert process.wait(280) == 0, "".join(lines)
    reader.join()
    assert any("goes on from the last checkpoint" in line for line in lines), "".join(lines)
    assert (
        "3 finished" in "".join(lines)
        or json.loads(process.stdout.read())["trials"]["finished"] == 3
    )
    assert {step for _, step in scores(tmp_path)} == {300, 600, 900}


def can_make_hosts() -> bool:
    """Whether this user may make network and mount namespaces."""
    tried = [
        "unshare",
        "-n",
        "-m",
        "sh",
        "-c",
        "ip link add name v0 type veth peer name v1 && ip link add name v2 type bridge && mount -t tmpfs none /mnt",
    ]
    return (
        bool(shutil.which("unshare") and shutil.which("ip"))
        and subprocess.run(tried, capture_output=True).returncode == 0
    )


class Hosts:
    """Network namespaces on one bridge: h0 to h2, 10.77.0.1 to .3."""

    def __init__(self, count: int) -> None:
        self.mark = uuid.uuid4().hex[:6]
        self.names = [f"h{number}-{self.mark}" for number in range(count)]
        self.bridge = f"br{self.mark}"
        self.do(f"link add name {self.bridge} type bridge")
        self.do(f"link set {self.bridge} up")
        for number, name in enumerate(self.names):
            outer = self.outer(number)
            self.do(f"netns add {name}")
            self.do(f"link add name {outer} type veth peer name eth0 netns {name}")
            self.do(f"link set {outer} master {self.bridge} up")
            for command in (
                f"addr add 10.77.0.{number + 1}/24 dev eth0",
                "link set eth0 up",
                "link set lo up",
            ):
                self.do(f"-n {name} {command}")

    def outer(self, number: int) -> str:
        """The bridge's end of a host's cable."""
        return f"v{number}x{self.mark}"

    def do(self, command: str) -> None:
        """One command of iproute2."""
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)

    def line(self, number: int, *command: object) -> list[str]:
        """A command line as it runs on a host."""
        return ["ip", "netns", "exec", self.names[number], *map(str, command)]

    def remove(self) -> None:
        """All of it."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if not can_make_hosts():
        pytest.skip("this user may not make network and mount namespaces")
    made = Hosts(3)
    yield made
    end_all(str(tmp_path))
    made.remove()


def join(hosts: Hosts, number: int, folder: Path, extra: str = "") -> None:
    """Start a raylet on a host and wait until it is there."""
    line = f"{extra} exec {BIN}/ray start --block --num-cpus 1 --disable-usage-stats --node-ip-address 10.77.0.{number + 1} "
    line += (
        "--head --port 6399 --include-dashboard false"
        if number == 0
        else "--address 10.77.0.1:6399"
    )
    line = line.replace("--num-cpus 1", "--num-cpus 0") if number == 0 else line
    line += f" --temp-dir {folder}" if number == 0 else ""
    line += " --object-store-memory 80000000"
    log = (folder / f"host{number}.log").open("wb")
    subprocess.Popen(
        hosts.line(number, "unshare", "-m", "sh", "-c", line),
        stdout=log,
        stderr=log,
        env={**os.environ, **FAST},
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while (
        "Local node IP" not in (folder / f"host{number}.log").read_text()
        or "This command will now block" not in (folder / f"host{number}.log").read_text()
    ):
        assert time.monotonic() < deadline, (folder / f"host{number}.log").read_text()
        time.sleep(0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ray's sockets need a short path."""
    made = Path("/tmp") / f"o{os.getpid()}"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    return made


def on_head(hosts: Hosts, toy: Path, storage: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command on the first host, with an MLflow server beside it."""
    known = {**os.environ, **FAST, "RAY_ADDRESS": "10.77.0.1:6399", "PYTHONPATH": str(ROOT)}
    known.pop("ORCHESTRATOR_CACHE", None)
    base = [
        "model=tiny",
        "data=files",
        f"data.folder={toy}",
        "train.max_length=128",
        "cluster=attached",
        "cluster.address=auto",
    ]
    base += ["tracking.uri=http://10.77.0.1:5000", f"storage={storage}"]
    line = hosts.line(0, sys.executable, "-m", "orchestrator", *base, *arguments)
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known, cwd=storage
    )


def test_a_node_that_does_not_see_the_storage_is_named(
    hosts: Hosts, toy: Path, tmp_path: Path, folder: Path
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    join(hosts, 0, folder)
    join(hosts, 1, folder, extra=f"mount -t tmpfs none {storage} &&")
    done = finished(on_head(hosts, toy, storage, *SMALL))
    assert done.code == 2, done.err
    assert "is not shared: 1 of 2 nodes do not see it (10.77.0.2)" in done.err
    end_all(str(folder))


@pytest.mark.slow
def test_a_host_that_is_cut_off_costs_no_trial(
    hosts: Hosts, toy: Path, tmp_path: Path, folder: Path
) -> None:
    for number in range(3):
        join(hosts, number, folder)
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--serve-artifacts",
        "--artifacts-destination",
        f"{tmp_path}/files",
    ]
    server = hosts.line(
        0,
        BIN / "mlflow",
        "server",
        *store,
        "--host",
        "10.77.0.1",
        "--port",
        5000,
        "--workers",
        1,
        "--allowed-hosts",
        "*",
    )
    subprocess.Popen(
        server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(20)
    process = on_head(
        hosts,
        toy,
        tmp_path,
        *SMALL,
        GRID,
        "executor=plain",
        "train.steps=1500",
        "train.eval_every=500",
        "output=json",
    )
    read = ""
    assert process.stderr is not None
    for text in process.stderr:
        read += text
        if "step 500/1500" in text:
            hosts.do(f"link set {hosts.outer(2)} down")
            break
    done = finished(process)
    assert done.code == 0, read + done.err
    assert re.search(r"goes on from the last checkpoint", read + done.err)
    assert done.result["trials"]["finished"] == 3
    end_all(str(folder))
