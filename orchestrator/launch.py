"""Where the work runs. Local: a Ray of our own on this machine, private to it and quiet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.resources import Resources

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    # A Ray that only this command uses, on the loopback address, needs no token; a new one would be left in the user's home.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Seconds for its daemons to come up: a machine that already trains something takes longer than the usual 60.
    "RAY_raylet_start_wait_time_s": "180",
    # Reports are handed on at this interval; the default of 2 s would be most of a short trial.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # What cannot be placed within this is retried five times before the trial fails.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
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
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
OBJECT_STORE_BYTES = 256 * 2**20


@contextmanager
def local(resources: Resources) -> Iterator[None]:
    """Start Ray on this machine with `resources` and stop it at the end. Raises OrchestratorError when it does not start."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
    # Workers are started with their Python's own path; what runs there must be importable wherever the command was typed.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    import ray

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        ray.init(
            address="local",
            num_cpus=resources.machine_cpus,
            num_gpus=resources.machine_gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:
        raise OrchestratorError(f"Ray did not start on this machine: {error}") from error
    try:
        silence()
        yield
    finally:
        ray.shutdown()


def silence() -> None:
    """Keep what Ray's daemons tell every driver, such as how many processes they have started, off the terminal; Ray's logs hold it too."""
    import ray._private.worker as driver

    driver.print_to_stdstream = lambda *message, **options: None
