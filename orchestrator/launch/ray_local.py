"""A Ray of our own on this machine, private to it and quiet."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.launch import ray_session
from orchestrator.launch.ray_settings import COMMON, keep_keys, quiet, silence
from orchestrator.plan.resources import Resources
from orchestrator.process import interruption, lifeline
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


def end_here(lost: str) -> None:
    """End this process, whose Ray is gone, telling why."""
    print(f"error: {lost}", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def local(resources: Resources, give_up: Callable[[str], None] = end_here) -> Iterator[None]:
    """Start Ray on this machine with `resources` and stop it at the end. Raises OrchestratorError
    when it does not start, or when an error of its own ends the work. `give_up` is called, in a
    thread, with what was lost when one of its daemons ends meanwhile, also while it starts; it does
    not return.

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
    from orchestrator.launch.ray_watchdog import Daemons, GcsPort, watched

    def tell(lost: str) -> None:
        lifeline.forget_last_words()
        give_up(lost)

    with ray_session.private() as folder, lifeline.temporary_files():
        daemons = Daemons(port=GcsPort(folder))
        try:
            with watched(daemons, tell):
                start(resources, folder, daemons.processes)
                with interruption.armed():
                    yield
        finally:
            if ray.is_initialized():
                ray.shutdown()


def start(resources: Resources, folder: Path, daemons: dict[str, Any]) -> None:
    """Start Ray, with its files in a folder; the processes that it cannot do without are put into
    `daemons`, by name, as soon as they run.
    """
    import ray

    try:
        gone = lifeline.last_words(GONE)
        with gone, frugal(), apart(daemons), ray_session.on_loopback():
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
    silence()


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
def apart(daemons: dict[str, Any]) -> Iterator[None]:
    """Let Ray's daemons that are started meanwhile have sessions of their own: what a terminal,
    `timeout` or slurm sends to the command's group stops the command, which stops its trials at a
    checkpoint, rather than Ray under its feet. keeper.py sees to their end. Those that Ray cannot
    do without are put into `daemons`.
    """
    from ray._private import services

    popen = services.ConsolePopen

    def start_apart(line: list[str], *arguments: Any, **options: Any) -> Any:
        process = popen(line, *arguments, start_new_session=True, **options)
        lifeline.end_session(process.pid)
        name = Path(line[0]).name
        if name in DAEMONS:
            daemons[name] = process
        return process

    services.ConsolePopen = start_apart  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]
