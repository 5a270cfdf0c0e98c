"""Runs a command and watches the processes that it starts: when it began, and how much memory all
of them took together at most.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.5
MOST_SHARE = 0.02
"""Counting memory walks the page tables; it may take this share of a core, and comes less often
where it would take more.
"""
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Watched:
    """A command that has ended."""

    began: float
    """Seconds since the epoch."""
    code: int
    peak_memory_mb: float
    """Largest sum over its processes; pages that several of them share count once where the system
    tells (Linux).
    """


def run(
    command: list[str],
    environment: dict[str, str],
    log: Path,
    done: Callable[[], bool] = lambda: False,
) -> Watched:
    """Run `command` until it ends or `done` says that nothing more is wanted of it; what it prints
    goes to `log`.

    No process that it has started is left when this returns.
    """
    seen: set[psutil.Process] = set()
    peak, next_sample = 0.0, 0.0
    with log.open("wb") as stream:
        began = time.time()
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and not done():
                sampled = time.monotonic()
                if sampled >= next_sample:
                    alive = tree(process.pid)
                    seen |= alive
                    peak = max(peak, sum(memory_mb(one) for one in alive))
                    ended = time.monotonic()
                    next_sample = ended + (ended - sampled) / MOST_SHARE
                time.sleep(INTERVAL_SECONDS)
        finally:
            end(process, seen | tree(process.pid))
    return Watched(began, process.returncode, peak)


def tree(pid: int) -> set[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return {root, *root.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def memory_mb(process: psutil.Process) -> float:
    """Memory of one process: its share of what it shares (PSS) where the system tells, else its
    resident set.
    """
    try:
        info = process.memory_full_info()
        return (getattr(info, "pss", 0) or info.rss) / 1e6
    except psutil.AccessDenied:
        return process.memory_info().rss / 1e6
    except (psutil.NoSuchProcess, OSError):
        return 0.0


def end(process: subprocess.Popen[bytes], seen: set[psutil.Process]) -> None:
    """Interrupt the command, as Ctrl-C would, if it still runs, and stop whatever it has left
    behind.
    """
    if process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    left = [one for one in seen if one.is_running() and one.pid != process.pid]
    for one in left:
        stop(one)
    psutil.wait_procs(left, timeout=10)
    for one in left:
        stop(one, kill=True)
    process.wait()


def stop(process: psutil.Process, kill: bool = False) -> None:
    """Ask one process to end, or end it. It may have ended by itself."""
    try:
        (process.kill if kill else process.terminate)()
    except psutil.NoSuchProcess:
        return
