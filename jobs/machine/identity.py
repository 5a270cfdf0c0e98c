"""What makes a machine's speed its own: processor, cores, libraries, what the environment switches
off, and graphics cards. Read without loading any library.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from jobs.machine.cores import usable_cores

CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia/gpus")
SWITCHES = ("ONEDNN_", "DNNL_", "ATEN_", "MKL_", "OMP_", "KMP_", "GOMP_")
"""Beginnings of the environment variables by which the matrix kernels and their threads go."""
NO_SWITCH = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)
"""Of those, what workers set themselves, by the cores that they are given, and what scikit-learn
sets when it is imported.
"""


def identity(threads: int) -> dict[str, Any]:
    """Everything that decides how fast `threads` threads multiply here; two machines, or two states
    of one, that differ in any of it are measured apart.
    """
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": threads,
        "torch": version_of("torch"),
        "switches": switches(),
        "gpus": gpu_names(),
    }


def key(machine: dict[str, Any]) -> str:
    """A short name for an identity, fit for a file."""
    text = json.dumps(machine, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def processor() -> dict[str, str]:
    """The processor's name, and a digest of what it can."""
    name = platform.processor() or platform.machine()
    flags = ""
    try:
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            label, _, value = line.partition(":")
            if label.strip() == "model name":
                name = value.strip()
            if label.strip() in ("flags", "Features"):
                flags = " ".join(sorted(value.split()))
    except OSError:
        pass
    digest = hashlib.sha256(flags.encode()).hexdigest()[:12]
    return {"name": name, "kind": platform.machine(), "flags": digest}


def switches() -> dict[str, str]:
    """Variables of the environment that change which kernels run and on which cores."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(SWITCHES) and name not in NO_SWITCH
    }


def gpu_names() -> list[str]:
    """The models of this machine's NVIDIA GPUs, as their driver tells them."""
    names = []
    for file in sorted(NVIDIA.glob("*/information")) if NVIDIA.is_dir() else []:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())
    return names


@functools.cache
def version_of(package: str) -> str:
    """A package's version, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
