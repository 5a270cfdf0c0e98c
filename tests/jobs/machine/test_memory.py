"""How much memory may still be taken."""

from __future__ import annotations

import pytest

from jobs.machine import memory


def test_memory_is_what_the_machine_and_the_control_group_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The smaller of both; nothing known is nothing to spare."""
    assert memory.available_bytes() > 0
    files = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:  100 kB"],
        "/sys/fs/cgroup/memory.max": ["90000"],
    }
    files |= {
        "/sys/fs/cgroup/memory.current": ["50000"],
        "/sys/fs/cgroup/memory.stat": ["anon 7", "inactive_file 1000"],
    }
    monkeypatch.setattr(memory, "lines", lambda path: files.get(path, []))
    assert memory.available_bytes() == 41000
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    assert memory.available_bytes() == 102400
    files.clear()
    assert memory.available_bytes() == 0
