"""MLflow stores for benchmarks.scale: what their calls take, and a PostgreSQL of its own where its
programs are installed.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.tracking import mlflow_store
from orchestrator.tracking.journal_reader import JournalReader
from orchestrator.tracking.outbox import OutboxWorker

PROGRAMS = max(glob.glob("/usr/lib/postgresql/*/bin/initdb") + [shutil.which("initdb") or ""])
LOOK_SECONDS = 0.5


@dataclass
class Timer:
    """How often something was called, and what it took."""

    calls: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the calling thread: other work on the same cores does not count."""

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self.calls += 1
                self.seconds, self.cpu_seconds = (
                    self.seconds + time.perf_counter() - began,
                    self.cpu_seconds + time.thread_time() - cpu,
                )

        return timed


class TimedStore:
    """A tracking store whose writes are timed."""

    def __init__(self, store: mlflow_store.MlflowStore) -> None:
        self._store, self.timer, self.num_metrics = store, Timer(), 0

    def write(self, run_id: str, update: Any) -> None:
        """See tracking.Store."""
        self.num_metrics += len(update.metrics)
        self.timer.around(self._store.write)(run_id, update)

    def open_run(self, *arguments: Any) -> str:
        """See tracking.Store."""
        return self.timer.around(self._store.open_run)(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def backlog(folder: Path) -> int:
    """Events of a sweep's journal that its writer has not dealt with, as its state on disk says."""
    state = folder / "tracking.json"
    offset = json.loads(state.read_text(encoding="utf-8"))["offset"] if state.exists() else 0
    return JournalReader(folder / "journal.jsonl").count(offset)


def carry(journal: Path, uri: str, folder: Path, patience_seconds: float) -> dict[str, float]:
    """Write a sweep's journal to another store, alone on the machine, for at most so long; what it
    took.
    """
    folder.mkdir(parents=True)
    shutil.copy(journal, folder / "journal.jsonl")
    store: Any = TimedStore(mlflow_store.connect(uri, "scale", folder / "artifacts"))
    writer, began = OutboxWorker(lambda: store, folder), time.perf_counter()
    writer.start()
    left = writer.close(patience_seconds)
    seconds, timer = time.perf_counter() - began, store.timer
    rate = timer.calls / timer.seconds
    return {
        "calls": timer.calls,
        "calls_per_second": rate,
        "seconds": seconds,
        "left_events": left,
        "metrics": store.num_metrics,
    }


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """The address of a PostgreSQL server that lives as long as this; None where it is not
    installed.
    """
    if not PROGRAMS:
        yield None
        return
    folder.mkdir(parents=True)
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:  # PostgreSQL refuses to run as root, and its user must reach the folder
        for parent in (folder, *folder.parents[:-2]):
            parent.chmod(0o755)
        shutil.chown(folder, user)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [str(Path(PROGRAMS).parent / program), "-D", f"{folder}/data", *arguments]
        subprocess.run(command, user=user, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    call("initdb", "-U", "mlflow", "-A", "trust")
    call(
        "pg_ctl",
        "-w",
        "-l",
        f"{folder}/log",
        "-o",
        f"-p {port} -k {folder} -c listen_addresses=127.0.0.1",
        "start",
    )
    try:
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")


class Memory:
    """The largest resident set of this process, looked at twice a second."""

    def __init__(self) -> None:
        import psutil

        self._process, self._over = psutil.Process(), threading.Event()
        self.before = self.peak = self.now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Bytes resident now."""
        return self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.peak = max(self.peak, self.now())

    def close(self) -> None:
        """Stop looking."""
        self.peak = max(self.peak, self.now())
        self._over.set()
        self._thread.join()
