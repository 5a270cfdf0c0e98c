"""How many CPU cores there are: of the machine, of those that this process may run on, and of the
quota that its control group has, as containers set it. Loads no library for that.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

from jobs.machine.memory import lines

GROUPS = Path("/sys/fs/cgroup")
PROCESS_GROUPS = "/proc/self/cgroup"


def usable_cores() -> int:
    """CPU cores that this process may use."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(math.ceil(min(cores, quota())), 1)


def quota() -> float:
    """The share of the processor time that the control group and those above it leave, in cores;
    infinite without a limit.
    """
    shares = [math.inf]
    for entry in lines(PROCESS_GROUPS):
        _, controllers, path = entry.split(":", 2)
        if controllers == "":
            shares += [share_of(lines(str(folder / "cpu.max"))) for folder in folders(GROUPS, path)]
        elif "cpu" in controllers.split(","):
            for root in (GROUPS / controllers, GROUPS / "cpu"):
                shares += [old_share(folder) for folder in folders(root, path)]
    return min(shares)


def folders(root: Path, path: str) -> list[Path]:
    """A control group's folder and those above it. In a container the path may be the host's, and
    its groups then lie at the root.
    """
    parts = PurePosixPath(path).relative_to("/").parts if path.startswith("/") else ()
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def old_share(folder: Path) -> float:
    """The quota of a group of the first version of control groups, in cores."""
    limit = lines(str(folder / "cpu.cfs_quota_us"))
    period = lines(str(folder / "cpu.cfs_period_us"))
    return share_of([" ".join([*limit, *period])])


def share_of(text: list[str]) -> float:
    """A quota in a period, such as "50000 100000", as cores; infinite for what is none."""
    words = text[0].split() if text else []
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return math.inf
    return int(words[0]) / int(words[1])
