"""How fast this machine multiplies, from the cache, or measured by a process of its own.

Loads no torch: whoever plans must answer at once. jobs/model/matrix_rate.py does the products.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.files.cache import cache_folder
from jobs.files.drafts import drafted
from jobs.machine.identity import identity, key

FORMATS = ("float32", "bfloat16")
"""Number formats that a base can be kept in."""
WORTH_IT = 1.2
"""bfloat16 is chosen where it is at least so many times as fast as float32: it rounds, and two
measurements of one machine differ by a tenth.
"""
MOST_SECONDS = 120.0
"""How long a measurement may take, imports on a busy machine included."""
VERSION = 1
"""Counts up when what is measured changes."""
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class MachineSpeed:
    """What was measured."""

    flops: dict[str, float]
    """Floating-point operations per second of a matrix product, by number format."""
    import_seconds: float | None
    """Processor time that importing torch took: what a process takes to start is a few times that.
    None where it was imported before.
    """
    threads: int

    @property
    def fastest(self) -> str:
        """The format to compute in where it is left open."""
        faster = self.flops["bfloat16"] >= WORTH_IT * self.flops["float32"]
        return "bfloat16" if faster else "float32"

    def describe(self) -> str:
        """ "310 GFLOP/s in bfloat16, 130 in float32, on 2 threads"."""
        ordered = sorted(self.flops.items(), key=lambda item: -item[1])
        (first, rate), *others = ordered
        words = [f"{rate / 1e9:,.0f} GFLOP/s in {first}"]
        words += [f"{other / 1e9:,.0f} in {name}" for name, other in others]
        threads = f"{self.threads} thread" + ("" if self.threads == 1 else "s")
        return f"{', '.join(words)}, on {threads}"


def file_of(threads: int) -> Path:
    """Where this machine's speed with so many threads is kept."""
    return cache_folder() / "machine" / f"{key(identity(threads))}.json"


def remembered(threads: int) -> MachineSpeed | None:
    """What was measured of this machine as it is now; None where nothing was, or where the file
    cannot be used.
    """
    try:
        return parsed(json.loads(file_of(threads).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def parsed(record: dict[str, Any]) -> MachineSpeed:
    """A measurement from its record. Raises ValueError, TypeError or KeyError for what is none."""
    if record["version"] != VERSION:
        raise ValueError("of an earlier version")
    flops = {name: float(record["flops"][name]) for name in FORMATS}
    seconds = record["import_seconds"]
    if seconds is not None:
        seconds = float(seconds)
    for rate in (*flops.values(), seconds or 1.0):
        if not math.isfinite(rate) or rate <= 0:
            raise ValueError(f"{rate} is no rate")
    return MachineSpeed(flops, seconds, int(record["threads"]))


def keep(speed: MachineSpeed) -> None:
    """Keep a measurement. A cache that takes nothing is no fault: it is measured again."""
    file = file_of(speed.threads)
    record = {"version": VERSION, **asdict(speed), "machine": identity(speed.threads)}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with drafted(file, uuid.uuid4().hex) as draft:
            draft.write_text(json.dumps(record, indent=1), encoding="utf-8")


def measured(
    threads: int, announce: Callable[[str], None] = lambda text: None
) -> MachineSpeed | None:
    """This machine's speed with so many threads: remembered, or measured now by a process of its
    own, of which `announce` is told. None where that process fails.
    """
    speed = remembered(threads)
    if speed is not None:
        return speed
    announce("measuring how fast this machine multiplies (once; it is kept in the cache)")
    line = [sys.executable, "-m", "jobs.model.matrix_rate", str(threads)]
    try:
        done = subprocess.run(
            line,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": python_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=True,
        )
        return parsed(json.loads(done.stdout.strip().splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError, IndexError):
        return None


def python_path() -> str:
    """PYTHONPATH with this project first."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
