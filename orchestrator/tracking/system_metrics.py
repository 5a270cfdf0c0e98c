"""What the driver's machine does while a sweep runs, told once for the sweep: MLflow's own
monitors, whose figures go through the journal, so that a slow store holds nothing up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from orchestrator.storage.journal import Journal

SAMPLE_SECONDS = 5.0
SAMPLES = 6
"""Samples that are averaged into one point."""
PREFIX = "system/"


def monitors() -> list[Any]:
    """MLflow's monitors that work on this machine."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    made: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(Exception):  # no NVIDIA GPU, or not its library
        made.append(GPUMonitor())
    return made


def measure(journal: Journal, began: float, over: threading.Event) -> None:
    """Write a point each half minute, and one of what is left at the end. A point's step is the
    seconds since the sweep was started for the first time.
    """
    watched = monitors()
    going = True
    while going:
        for _ in range(SAMPLES):
            for monitor in watched:
                monitor.collect_metrics()
            going = not over.wait(SAMPLE_SECONDS)
            if not going:
                break
        figures: dict[str, float] = {}
        for monitor in watched:
            figures |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        metrics = {f"{PREFIX}{name}": float(value) for name, value in figures.items()}
        with contextlib.suppress(OSError):  # whoever trains will say so
            step = int(time.time() - began)
            journal.append("metrics", trial=None, step=step, metrics=metrics)


@contextlib.contextmanager
def recorded(journal: Journal, wanted: bool) -> Iterator[None]:
    """Measure while this is open, where it is wanted."""
    if not wanted:
        yield
        return
    first = next((event["t"] / 1000 for event in journal.events()), time.time())
    over = threading.Event()
    thread = threading.Thread(
        target=measure, args=(journal, first, over), name="system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SAMPLE_SECONDS)
