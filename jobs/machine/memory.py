"""How much memory there is. Loads no library for that."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int:
    """Memory that this process may still take: of the machine, and of its control group; 0 where
    that is not known.
    """
    limits = [
        int(line.split()[1]) << 10
        for line in lines("/proc/meminfo")
        if line.startswith("MemAvailable:")
    ]
    limit = lines("/sys/fs/cgroup/memory.max")
    used = lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        spare = [
            int(line.split()[1])
            for line in lines("/sys/fs/cgroup/memory.stat")
            if line.startswith("inactive_file ")
        ]
        limits.append(int(limit[0]) - int(used[0]) + sum(spare))
    return max(min(limits, default=0), 0)


def lines(path: str) -> list[str]:
    """Those of a small file of the kernel's; none where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
