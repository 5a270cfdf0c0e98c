"""Where the work runs. Local: a Ray of our own on this machine, private to it and quiet. Attached: a cluster that is there, or nothing."""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs import store
from orchestrator import lifeline, session, sharing, ship
from orchestrator.config import Config
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.journal import storage_folder
from orchestrator.relay import EXPECTED, WORKERS
from orchestrator.resources import Node, Resources, head_problem

ROOT = Path(__file__).resolve().parent.parent
COMMON = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Reports are handed on at this interval; the default of 2 s would be most of a short trial.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # recorder.py says which metric is missing and which there are.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin while they wait starve other work on the same cores (seen here to slow a step tenfold), and threads that only sleep
    # make a small product three times as slow: so they spin for some ten microseconds first.
    "GOMP_SPINCOUNT": "10000",
    # Memory that a step gives back is needed again by the next one: handing it to the system and asking for it again page by page took a
    # tenth of a pack's step. Read by glibc; others ignore it.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
LOCAL = {
    # A process that waits for a cloud to announce that it takes this machine away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nobody reads the metrics and events of a Ray that ends with this command; each of its processes would wake for them every second.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # It is one machine and stays one.
    "ORCHESTRATOR_FIXED_SIZE": "1",
    # Seconds for its daemons to come up: a machine that already trains something takes longer than the usual 60.
    "RAY_raylet_start_wait_time_s": "180",
    # What cannot be placed within this is retried five times before the trial fails.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}
SPARED = ("start_api_server", "start_monitor", "start_log_monitor")
"""How Ray's own Node starts these."""
DAEMONS = ("gcs_server", "raylet")
OBJECT_STORE_BYTES = 256 * 2**20
MOST_NODES = 10_000
PROBE_SECONDS = 120.0


@contextmanager
def local(resources: Resources) -> Iterator[None]:
    """Start Ray on this machine with `resources` and stop it at the end. Raises OrchestratorError when it does not start.

    Nobody else can use it: it listens on loopback alone, asks for a token that is made for this run, and its folder is open to its user
    only and gone at the end.
    """
    for name, value in (COMMON | LOCAL).items():
        os.environ.setdefault(name, value)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
    # Workers are started with their Python's own path; what runs there must be importable wherever the command was typed.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    be_patient()
    import ray

    quiet()
    keep_keys()
    with session.private() as folder, lifeline.temporary_files():
        try:
            with frugal(), apart(), session.on_loopback():
                ray.init(
                    address="local",
                    num_cpus=resources.num_cpus,
                    num_gpus=resources.num_gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address=session.LOOPBACK,
                    _temp_dir=str(folder),
                )
        except Exception as error:
            raise OrchestratorError(f"Ray did not start on this machine: {error}") from error
        try:
            silence()
            yield
        finally:
            ray.shutdown()


@contextmanager
def joined(config: Config) -> Iterator[tuple[Node, ...]]:
    """Join the cluster that this process runs in, and yield what it has or may scale to.

    Raises InputError when there is no cluster, when versions differ, or when a node does not see the storage. Never starts a Ray.
    """
    check_versions()
    workers = COMMON | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(config.cluster.wait_seconds)}
    workers |= {"ORCHESTRATOR_CACHE": os.environ["ORCHESTRATOR_CACHE"]}
    for name, value in workers.items():
        os.environ.setdefault(name, value)
    if "_ray_pkg_" not in str(ROOT):
        workers["PYTHONPATH"] = str(ROOT)  # the image's; where Ray has unpacked the code, it also lets workers find it
    cluster = head_address()
    import ray

    quiet()
    try:
        ray.init(address=cluster, log_to_driver=False, logging_level=logging.CRITICAL, runtime_env={"env_vars": workers})
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"cluster.address=auto: RAY_ADDRESS={cluster}: {str(error).strip().splitlines()[0]}") from error
    keep_keys()
    try:
        silence()
        await_workers(config.cluster.wait_seconds)
        check_nodes(config)
        yield nodes()
    finally:
        ray.shutdown()


def head_address() -> str:
    """HOST:PORT of the head, as Ray tells every job. Raises InputError for anything else, such as local or auto: Ray would start a cluster
    of its own, or look for any on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    if re.fullmatch(r"([^\s/:@]+|\[[\da-fA-F:.]+\]):\d{1,5}", address):
        return address
    outside = (
        f"RAY_ADDRESS={address} is no HOST:PORT of a head" if address else "this process runs in no Ray cluster (RAY_ADDRESS is not set)"
    )
    remedy = "on a machine of the cluster set RAY_ADDRESS=HEAD:6379; from outside give its head: cluster.address=http://HEAD:8265"
    raise InputError(f"cluster.address=auto: {outside}; {remedy}")


def check_versions() -> None:
    """Raise InputError when this is not what the machine that sent the command has."""
    wanted = dict(part.split("=") for part in os.environ.get(EXPECTED, "").split())
    python = ".".join(platform.python_version_tuple()[:2])
    if wanted.get("python", python) != python:
        sender = f"the machine that sent the command {wanted['python']}"
        raise InputError(f"the cluster has Python {python}, {sender}; install the same")
    if "code" in wanted and wanted["code"] != (code := ship.code_digest()):
        sender = f"the machine that sent the command {wanted['code']}; build the image anew, or send the code: cluster.code=ship"
        raise InputError(f"the cluster has the code of this project {code}, {sender}")


def await_workers(limit_seconds: float) -> None:
    """Wait for the workers that the RayJob of this command has asked for. Elsewhere the cluster is taken as it is."""
    if WORKERS not in os.environ:
        return
    from orchestrator import waiting

    def look() -> tuple[int, bool]:
        alive, possible = resources_of_nodes()
        return sum(node.get("CPU", 0) >= 1 for node in alive), bool(possible)

    waiting.for_workers(os.environ[WORKERS], limit_seconds, look, lambda text: print(text, file=sys.stderr, flush=True))


def resources_of_nodes() -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What the nodes that are there have, and those that an autoscaler may have at most; without an autoscaler the latter are none."""
    import ray
    from ray._private.state import state

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config: Any = state.get_cluster_config()
    groups = [(dict(group.resources), group.max_count) for group in config.node_group_configs] if config is not None else []
    return alive, [resources for resources, most in groups for _ in range(min(most if most >= 0 else MOST_NODES, MOST_NODES))]


def nodes() -> tuple[Node, ...]:
    """The nodes that can hold work; of a cluster that grows, as many as there may be. Raises InputError when there are none."""
    alive, possible = resources_of_nodes()
    found = [Node(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in (possible if len(possible) > len(alive) else alive)]
    found = [node for node in found if node.cpus > 0]
    if not found:
        raise InputError(f"the cluster has {len(alive)} nodes and none offers CPU cores to work; add worker nodes to it")
    return tuple(sorted(found, key=lambda node: (-node.gpus, -node.cpus)))


def check_head(resources: Resources) -> None:
    """Raise InputError when the head's memory does not hold the processes of the trials that are under way at once."""
    import ray

    heads = [node["Resources"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    if heads and (problem := head_problem(resources, heads[0].get("memory", float("inf")))):
        raise InputError(problem)


def check_nodes(config: Config) -> None:
    """Raise InputError naming the nodes that do not see the storage or the base model's folder, or that have another Python."""
    storage, folder = config.storage, None if sharing.came_along(config) else sharing.named_paths(config).get("model.path")
    marker = store.join(storage if store.is_uri(storage) else str(storage_folder(storage)), f".seen-{uuid.uuid4().hex}")
    try:
        leave(marker)
        answers = ask_nodes([marker] if folder is None else [marker, folder])
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0][:300]
        raise InputError(f"storage {storage} cannot be written on the head: {why}; choose another one: storage=FOLDER") from error
    finally:
        store.remove(marker) if store.is_uri(marker) else Path(marker).unlink(missing_ok=True)
    shared = "mount the same folder there, or choose one that every node sees"
    for number, what in enumerate([f"storage {storage}"] if folder is None else [f"storage {storage}", f"model.path {folder}"]):
        blind = [address for address, (seen, _) in answers.items() if not seen[number]]
        if blind:
            remedy = f"{shared}: {'storage=/mnt/shared/outputs' if number == 0 else f'model.path={storage}/MODEL'}"
            raise InputError(f"{what} is not shared: {len(blind)} of {len(answers)} nodes do not see it ({', '.join(blind[:5])}); {remedy}")
    other = {f"{address} has {version}" for address, (_, version) in answers.items() if version != platform.python_version()}
    if other:
        raise InputError(
            f"the nodes have different versions of Python: the head {platform.python_version()}, {', '.join(sorted(other)[:5])}"
        )


def ask_nodes(places: list[str]) -> dict[str, tuple[list[bool], str]]:
    """Which of the places each node sees, and its version of Python, by the node's address. Raises InputError when one cannot be asked."""
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from jobs.node import look

    def there() -> dict[str, str]:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}

    probe = ray.remote(look)
    while True:
        alive = there()
        placed = {id: probe.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)) for id in alive}
        try:
            seen = ray.get([task.remote(places) for task in placed.values()], timeout=PROBE_SECONDS)
        except RayError as error:
            if alive.keys() - there().keys() and not isinstance(error, RayTaskError):
                continue  # one has died meanwhile, which says nothing about the others
            raise InputError(f"a node of the cluster cannot run this project's code: {str(error).strip().splitlines()[-1]}") from error
        return dict(zip(alive.values(), seen, strict=True))


def leave(marker: str) -> None:
    """Write an empty file for others to see. Raises OSError."""
    if store.is_uri(marker):
        with tempfile.NamedTemporaryFile() as empty:
            store.put(Path(empty.name), marker)
    else:
        Path(marker).parent.mkdir(parents=True, exist_ok=True)
        Path(marker).touch()


def be_patient() -> None:
    """Let this process, and those that Ray starts from it, wait for a core instead of pushing others off it, where the system can (Linux).

    Ray's processes wake a thousand times a second. Each time one of a step's threads lost its core, and the others waited for that one.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextmanager
def frugal() -> Iterator[None]:
    """Let a Ray that starts meanwhile do without what no private one needs, and every start would wait for: the server of the dashboard,
    the autoscaler, and what forwards logs to the driver.
    """
    from ray._private.node import Node

    spared = {name: getattr(Node, name) for name in SPARED if hasattr(Node, name)}
    for name in spared:
        setattr(Node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, method in spared.items():
            setattr(Node, name, method)


@contextmanager
def apart() -> Iterator[None]:
    """Let Ray's daemons that are started meanwhile have sessions of their own: what a terminal, `timeout` or slurm sends to the command's
    group stops the command, which stops its trials at a checkpoint, rather than Ray under its feet. keeper.py sees to their end.
    """
    from ray._private import services

    popen = services.ConsolePopen

    def start(*arguments: Any, **options: Any) -> Any:
        process = popen(*arguments, start_new_session=True, **options)
        lifeline.end_session(process.pid)
        return process

    services.ConsolePopen = start  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


def daemons() -> dict[str, Any]:
    """The processes of this machine's private Ray that it cannot do without, by name."""
    from ray._private import worker

    node: Any = worker.global_worker.node
    return {name: started[0].process for name, started in node.all_processes.items() if name in DAEMONS and started}


def keep_keys() -> None:
    """Have Ray Tune not hand the driver's keys of an object store to every trial: what is handed on stands in a log that all can read.
    Here all processes inherit them; on a cluster each node has its own, as `check_nodes` has seen.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}


def quiet() -> None:
    """Keep Ray's own loggers off the terminal."""
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def silence() -> None:
    """Keep what Ray's daemons tell every driver, such as how many processes they have started, off the terminal; Ray's logs hold it too."""
    import ray._private.worker as driver

    driver.print_to_stdstream = lambda *message, **options: None
