"""Where the work runs. Local: a Ray of our own on this machine, private to it and quiet. Attached:
a cluster that is there, or nothing.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.files import filesystem
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.job_environment import EXPECTED, WORKERS
from orchestrator.launch.ray_settings import COMMON, keep_keys, quiet, silence, unnamed
from orchestrator.plan.resources import Node, Resources, head_problem
from orchestrator.process import interruption
from orchestrator.project import ROOT
from orchestrator.remote import code_archive
from orchestrator.storage import staging
from orchestrator.storage.paths import storage_folder

MOST_NODES = 10_000
PROBE_SECONDS = 120.0


@contextmanager
def joined(config: Config) -> Iterator[tuple[Node, ...]]:
    """Join the cluster that this process runs in, and yield what it has or may scale to.

    Raises InputError when there is no cluster, when versions differ, or when a node does not see
    the storage. Never starts a Ray.
    """
    check_versions()
    workers = COMMON | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(config.cluster.wait_seconds)}
    if (
        "ORCHESTRATOR_CACHE" in os.environ
    ):  # else each node has its own: an object store is no cache
        workers["ORCHESTRATOR_CACHE"] = os.environ["ORCHESTRATOR_CACHE"]
    for name, value in workers.items():
        os.environ.setdefault(name, value)
    if "_ray_pkg_" not in str(ROOT):
        workers["PYTHONPATH"] = str(
            ROOT
        )  # the image's; where Ray has unpacked the code, it also lets workers find it
    cluster = head_address()
    import ray

    quiet()
    try:
        with unnamed():
            ray.init(
                address=cluster,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={"env_vars": workers},
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"cluster.address=auto: RAY_ADDRESS={cluster}: {str(error).strip().splitlines()[0]}"
        ) from error
    keep_keys()
    try:
        silence()
        await_workers(config.cluster.wait_seconds)
        check_nodes(config)
        with interruption.armed():
            yield nodes()
    finally:
        ray.shutdown()


def head_address() -> str:
    """HOST:PORT of the head, as Ray tells every job. Raises InputError for anything else, such as
    local or auto: Ray would start a cluster of its own, or look for any on this machine.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if re.fullmatch(r"([^\s/:@]+|\[[\da-fA-F:.]+\]):\d{1,5}", address):
        return address
    outside = (
        f"RAY_ADDRESS={address} is no HOST:PORT of a head"
        if address
        else "this process runs in no Ray cluster (RAY_ADDRESS is not set)"
    )
    remedy = (
        "on a machine of the cluster set RAY_ADDRESS=HEAD:6379; from outside give its head: "
        "cluster.address=http://HEAD:8265"
    )
    raise InputError(f"cluster.address=auto: {outside}; {remedy}")


def check_versions() -> None:
    """Raise InputError when this is not what the machine that sent the command has."""
    wanted = dict(pair.split("=") for pair in os.environ.get(EXPECTED, "").split())
    python = ".".join(platform.python_version_tuple()[:2])
    if wanted.get("python", python) != python:
        sender = f"the machine that sent the command {wanted['python']}"
        raise InputError(f"the cluster has Python {python}, {sender}; install the same")
    if "code" in wanted and wanted["code"] != (code := code_archive.code_digest()):
        sender = (
            f"the machine that sent the command {wanted['code']}; build the image anew, or send "
            "the code: cluster.code=ship"
        )
        raise InputError(f"the cluster has the code of this project {code}, {sender}")


def await_workers(limit_seconds: float) -> None:
    """Wait for the workers that the RayJob of this command has asked for. Elsewhere the cluster is
    taken as it is.
    """
    if WORKERS not in os.environ:
        return
    from orchestrator.sweep import placement

    def look() -> tuple[int, bool]:
        alive, possible = resources_of_nodes()
        return sum(node.get("CPU", 0) >= 1 for node in alive), bool(possible)

    placement.for_workers(
        os.environ[WORKERS],
        limit_seconds,
        look,
        lambda text: print(text, file=sys.stderr, flush=True),
    )


def resources_of_nodes() -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What the nodes that are there have, and those that an autoscaler may have at most; without an
    autoscaler the latter are none.
    """
    import ray
    from ray._private.state import state

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config: Any = state.get_cluster_config()
    groups = (
        [(dict(group.resources), group.max_count) for group in config.node_group_configs]
        if config is not None
        else []
    )
    return alive, [
        resources
        for resources, most in groups
        for _ in range(min(most if most >= 0 else MOST_NODES, MOST_NODES))
    ]


def nodes() -> tuple[Node, ...]:
    """The nodes that can hold work; of a cluster that grows, as many as there may be. Raises
    InputError when there are none.
    """
    alive, possible = resources_of_nodes()
    usable_nodes = [
        Node(int(r.get("CPU", 0)), int(r.get("GPU", 0)))
        for r in (possible if len(possible) > len(alive) else alive)
    ]
    usable_nodes = [node for node in usable_nodes if node.cpus > 0]
    if not usable_nodes:
        raise InputError(
            f"the cluster has {len(alive)} nodes and none offers CPU cores to work; add worker "
            "nodes to it"
        )
    return tuple(sorted(usable_nodes, key=lambda node: (-node.gpus, -node.cpus)))


def check_head(resources: Resources) -> None:
    """Raise InputError when the head's memory does not hold the processes of the trials that are
    under way at once.
    """
    import ray

    heads = [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and "node:__internal_head__" in node["Resources"]
    ]
    if heads and (problem := head_problem(resources, heads[0].get("memory", float("inf")))):
        raise InputError(problem)


def check_nodes(config: Config) -> None:
    """Raise InputError naming the nodes that do not see the storage or a model's folder, or that
    have another Python.
    """
    storage = config.storage
    folders = staging.unsent_folders(config)
    marker = filesystem.join(
        storage if filesystem.is_uri(storage) else str(storage_folder(storage)),
        f".seen-{uuid.uuid4().hex}",
    )
    try:
        leave(marker)
        answers = ask_nodes([marker, *folders.values()])
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0][:300]
        raise InputError(
            f"storage {storage} cannot be written on the head: {why}; choose another one: "
            "storage=FOLDER"
        ) from error
    finally:
        if filesystem.is_uri(marker):
            filesystem.remove(marker)
        else:
            Path(marker).unlink(missing_ok=True)
    shared = "mount the same folder there, or choose one that every node sees"
    for index, (setting, place) in enumerate({"storage": storage, **folders}.items()):
        blind = [address for address, (visible, _) in answers.items() if not visible[index]]
        if blind:
            instead = "/mnt/shared/outputs" if index == 0 else f"{storage}/MODEL"
            raise InputError(
                f"{setting} {place} is not shared: {len(blind)} of {len(answers)} nodes do not see "
                f"it ({', '.join(blind[:5])}); {shared}: {setting}={instead}"
            )
    other_versions = {
        f"{address} has {version}"
        for address, (_, version) in answers.items()
        if version != platform.python_version()
    }
    if other_versions:
        raise InputError(
            f"the nodes have different versions of Python: the head {platform.python_version()}, "
            f"{', '.join(sorted(other_versions)[:5])}"
        )


def ask_nodes(paths: list[str]) -> dict[str, tuple[list[bool], str]]:
    """Which of the places each node sees, and its version of Python, by the node's address. Raises
    InputError when one cannot be asked.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from jobs.files.node_probe import look

    def there() -> dict[str, str]:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}

    probe = ray.remote(look)
    while True:
        alive = there()
        placed = {
            id: probe.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)
            )
            for id in alive
        }
        try:
            answers = ray.get(
                [task.remote(paths) for task in placed.values()], timeout=PROBE_SECONDS
            )
        except RayError as error:
            if alive.keys() - there().keys() and not isinstance(error, RayTaskError):
                continue  # one has died meanwhile, which says nothing about the others
            raise InputError(
                "a node of the cluster cannot run this project's code: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from error
        return dict(zip(alive.values(), answers, strict=True))


def leave(marker: str) -> None:
    """Write an empty file for others to see. Raises OSError."""
    if filesystem.is_uri(marker):
        with tempfile.NamedTemporaryFile() as empty:
            filesystem.put(Path(empty.name), marker)
    else:
        Path(marker).parent.mkdir(parents=True, exist_ok=True)
        Path(marker).touch()
