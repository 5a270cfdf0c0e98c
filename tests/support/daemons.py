"""Ending Ray's daemons."""

from __future__ import annotations

import contextlib
import signal

import psutil


def end_raylet(raylet: psutil.Process) -> None:
    """Ask a raylet to end, and end it where it does not: one that has only just begun may drain
    without an end.
    """
    for signal_number in (*[signal.SIGTERM] * 5, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            raylet.send_signal(signal_number)
            raylet.wait(1)
        if not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE:
            return
