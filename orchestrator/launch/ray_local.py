"""A Ray of our own on this machine, private to it and quiet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.launch import ray_session
from orchestrator.launch.ray_settings import COMMON, keep_keys, quiet, silence
from orchestrator.plan.resources import Resources
from orchestrator.process import lifeline
from orchestrator.project import ROOT

LOCAL = {
    # A process that waits for a cloud to announce that it takes this machine away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nobody reads the metrics and events of a Ray that ends with this command; each of its
    # processes would wake for them every second.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # It is one machine and stays one.
    "ORCHESTRATOR_FIXED_SIZE": "1",
    # Seconds for its daemons to come up: a machine that already trains something takes longer than
    # the usual 60.
    "RAY_raylet_start_wait_time_s": "180",
    # What cannot be placed within this is retried five times before the trial fails.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}
SPARED = ("start_api_server", "start_monitor", "start_log_monitor")
"""How Ray's own Node starts these."""
DAEMONS = ("gcs_server", "raylet")
GONE = (
    "error: the command was ended while Ray started on this machine, or Ray's daemons were; the "
    "same command begins again"
)
OBJECT_STORE_BYTES = 256 * 2**20


@contextmanager
def local(resources: Resources) -> Iterator[None]:
    """Start Ray on this machine with `resources` and stop it at the end. Raises OrchestratorError
    when it does not start.

    Nobody else can use it: it listens on loopback alone, asks for a token that is made for this
    run, and its folder is open to its user only and gone at the end.
    """
    for name, value in (COMMON | LOCAL).items():
        os.environ.setdefault(name, value)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
    # Workers are started with their Python's own path; what runs there must be importable wherever
    # the command was typed.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    be_patient()
    import ray

    quiet()
    keep_keys()
    with ray_session.private() as folder, lifeline.temporary_files():
        try:
            gone = lifeline.last_words(GONE)
            with gone, frugal(), apart(), ray_session.on_loopback():
                ray.init(
                    address="local",
                    num_cpus=resources.num_cpus,
                    num_gpus=resources.num_gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address=ray_session.LOOPBACK,
                    _temp_dir=str(folder),
                )
        except Exception as error:
            raise OrchestratorError(
                f"Ray did not start on this machine: {error}; on a machine that was only busy the "
                "same command again helps"
            ) from error
        try:
            silence()
            yield
        finally:
            ray.shutdown()


def be_patient() -> None:
    """Let this process, and those that Ray starts from it, wait for a core instead of pushing
    others off it, where the system can (Linux).

    Ray's processes wake a thousand times a second. Each time one of a step's threads lost its core,
    and the others waited for that one.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextmanager
def frugal() -> Iterator[None]:
    """Let a Ray that starts meanwhile do without what no private one needs, and every start would
    wait for: the server of the dashboard, the autoscaler, and what forwards logs to the driver.
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
    """Let Ray's daemons that are started meanwhile have sessions of their own: what a terminal,
    `timeout` or slurm sends to the command's group stops the command, which stops its trials at a
    checkpoint, rather than Ray under its feet. keeper.py sees to their end.
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
    return {
        name: started[0].process
        for name, started in node.all_processes.items()
        if name in DAEMONS and started
    }
