"""Several nodes: real raylets of one cluster, packs and trials spread over them, a node that dies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.errors import InputError
from orchestrator.job_environment import WORKERS
from orchestrator.launch import ray_cluster
from orchestrator.launch.ray_settings import COMMON
from orchestrator.plan.resources import Node, Resources
from tests.conftest import ROOT, environment, finished
from tests.support.alone import Scores, scores_alone
from tests.support.hosts import FAST, GRID, SMALL
from tests.support.servers import mlflow_server
from tests.support.settings import build


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


def scores(storage: Path) -> Scores:
    """What the journal of a sweep says of its trials."""
    (file,) = storage.glob("sweeps/*/journal.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        (e["trial"], e["step"]): e["metrics"]["valid/loss"]
        for e in events
        if e["kind"] == "report" and "valid/loss" in e["metrics"]
    }


@pytest.fixture(scope="module")
def alone(toy: Path, base: BaseModel) -> Scores:
    """The scores of the three trials, each by itself."""
    return scores_alone(toy, base, *SMALL, GRID)


def test_packs_are_spread_over_the_nodes(
    inside: Any, cluster: Any, alone: Scores, tmp_path: Path
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


@pytest.mark.parametrize("executor", [pytest.param("plain", marks=pytest.mark.slow), "pack"])
def test_one_trial_over_three_nodes_gives_the_result_of_one(
    inside: Any, alone: Scores, tmp_path: Path, executor: str
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


def test_three_nodes_give_the_very_scores_of_one_and_a_node_that_dies_costs_no_trial(
    inside: Any, cluster: Any, toy: Path, base: BaseModel, tmp_path: Path
) -> None:
    long = (*SMALL, GRID, "adapter.dropout=0.1", "train.steps=600", "train.eval_every=100")
    process = inside(tmp_path, *long, "executor=plain", "sweep.max_concurrent=3")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    learned = [f"trial {index}/3 .*step 100/600" for index in (1, 2, 3)]
    while not all(re.search(pattern, "".join(lines)) for pattern in learned):
        assert process.poll() is None, "".join(lines)
        time.sleep(0.1)
    # Every node trains a trial; the one whose node is gone goes on where another one has ended.
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    out, _ = process.stdout.read(), process.wait(570)
    reader.join()
    said = "".join(lines)
    assert process.returncode == 0, said
    assert "3 trials, 3 at a time on 1 CPU core each · attached" in said
    assert "goes on from the last checkpoint" in said
    assert json.loads(out)["trials"]["finished"] == 3
    assert scores(tmp_path) == scores_alone(toy, base, *long)


def test_a_head_is_not_told_the_command_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import utils

    told: list[str] = []

    def init(**options: Any) -> None:
        told.append(utils.get_entrypoint_name())
        raise ConnectionError("away")

    for name, value in COMMON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(ray, "init", init)
    before = utils.get_entrypoint_name
    config = build(compose(["model=tiny"], None))
    with pytest.raises(InputError, match="away"), ray_cluster.joined(config):
        pass
    assert told == ["python -m orchestrator"] and utils.get_entrypoint_name is before
