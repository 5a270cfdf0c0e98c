"""How many cores a process may use: a container's quota is less than the machine has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jobs.machine import cores, identity
from orchestrator.config.compose import compose
from orchestrator.plan.resources import count_cpus
from tests.support.settings import build


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores whose control groups lie in a folder."""
    monkeypatch.setattr(cores, "GROUPS", tmp_path)
    monkeypatch.setattr(cores, "PROCESS_GROUPS", str(tmp_path / "process"))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (["max 100000", "max 100000"], 16),
        (["400000 100000", "max 100000"], 4),
        (["max 100000", "150000 100000"], 2),
        (["800000 100000", "20000 100000"], 1),
        (["3200000 100000", "junk"], 16),
    ],
)
def test_a_quota_of_the_group_or_of_one_above_it_counts(
    groups: Path, limits: list[str], expected: int
) -> None:
    write(groups, process="0::/pods/this")
    write(groups / "pods", cpu__max=limits[0])
    write(groups / "pods" / "this", cpu__max=limits[1])
    assert cores.usable_cores() == expected == identity.identity(2)["cores"]
    assert count_cpus(build(compose(["model=tiny"], None))) == expected


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 16)])
def test_a_group_of_the_first_version_has_its_quota_in_two_files(
    groups: Path, quota: str, expected: int
) -> None:
    write(groups, process="4:memory:/host/path\n3:cpu,cpuacct:/host/path\n0::/")
    write(groups / "cpu,cpuacct", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert cores.usable_cores() == expected


def test_without_control_groups_all_cores_are_there(groups: Path) -> None:
    assert cores.quota() == math.inf and cores.usable_cores() == 16
