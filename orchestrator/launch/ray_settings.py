"""Environment and silence that every Ray of ours has in common."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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
    # Threads that spin while they wait starve other work on the same cores (seen here to slow a
    # step tenfold), and threads that only sleep make a small product three times as slow: so they
    # spin for some ten microseconds first.
    "GOMP_SPINCOUNT": "10000",
    # Memory that a step gives back is needed again by the next one: handing it to the system and
    # asking for it again page by page took a tenth of a pack's step. Read by glibc; others ignore
    # it.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def keep_keys() -> None:
    """Have Ray Tune not hand the driver's keys of an object store to every trial: what is handed on
    stands in a log that all can read. Here all processes inherit them; on a cluster each node has
    its own, as `check_nodes` has seen.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }


def quiet() -> None:
    """Keep Ray's own loggers off the terminal."""
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def silence() -> None:
    """Keep what Ray's daemons tell every driver, such as how many processes they have started, off
    the terminal; Ray's logs hold it too.
    """
    import ray._private.worker as driver

    driver.print_to_stdstream = lambda *message, **options: None


@contextmanager
def unnamed() -> Iterator[None]:
    """Have a Ray that is joined meanwhile not take down the command as it was typed, which may hold
    a password: it stands in its logs and in its table of jobs, for all who see the cluster.
    """
    from ray._private import utils

    before = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: "python -m orchestrator"
    try:
        yield
    finally:
        utils.get_entrypoint_name = before
