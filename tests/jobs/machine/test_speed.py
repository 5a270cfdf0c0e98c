"""How fast this machine multiplies: measured once, kept under what makes the machine what it is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.machine import identity, speed
from jobs.machine.speed import MachineSpeed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return tmp_path


def rates(float32: float, bfloat16: float) -> MachineSpeed:
    return MachineSpeed({"float32": float32, "bfloat16": bfloat16}, 1.0, 2)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [
        (130e9, 310e9, "bfloat16"),
        (330e9, 180e9, "float32"),
        (90e9, 8e9, "float32"),
        (100e9, 119e9, "float32"),
        (100e9, 121e9, "bfloat16"),
    ],
)
def test_the_format_is_the_one_that_is_clearly_faster(
    float32: float, bfloat16: float, chosen: str
) -> None:
    assert rates(float32, bfloat16).fastest == chosen


def test_what_was_measured_is_found_again_and_told_in_words() -> None:
    assert speed.remembered(2) is None
    speed.keep(rates(130e9, 310e9))
    assert speed.remembered(2) == rates(130e9, 310e9)
    assert speed.remembered(1) is None, "other threads have another rate"
    said = rates(130e9, 310e9).describe()
    assert said == "310 GFLOP/s in bfloat16, 130 in float32, on 2 threads"


def test_the_machine_is_the_same_once_scikit_learn_is_imported() -> None:
    importing = "import sklearn" if importlib.util.find_spec("sklearn") else "pass"
    told = "from jobs.machine.identity import identity; print(identity(2)['switches'])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}
    before, after = (
        subprocess.run(
            [sys.executable, "-c", f"{first}; {told}"],
            env=clean,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for first in ("pass", importing)
    )
    assert before == after


@pytest.mark.parametrize("switch", ["ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_PROC_BIND"])
def test_what_the_environment_switches_off_is_another_machine(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(switch, raising=False)
    speed.keep(rates(130e9, 310e9))
    monkeypatch.setenv(switch, "AVX2")
    assert speed.remembered(2) is None
    monkeypatch.delenv(switch)
    assert speed.remembered(2) is not None


def test_threads_that_workers_set_themselves_make_no_other_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = identity.key(identity.identity(2))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert identity.key(identity.identity(2)) == before


def test_another_processor_is_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for name, flags in (("A", "sse avx2"), ("B", "sse avx2"), ("B", "sse avx2 amx_bf16")):
        file = tmp_path / "cpuinfo"
        file.write_text(f"model name\t: {name}\nflags\t\t: {flags}\n", encoding="utf-8")
        monkeypatch.setattr(identity, "CPUINFO", file)
        keys.add(identity.key(identity.identity(2)))
    assert len(keys) == 3


def test_a_machine_without_cpuinfo_has_an_identity_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "CPUINFO", tmp_path / "absent")
    assert identity.processor()["name"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 0}',
        '{"version": 1, "flops": {"float32": 1e9}, "import_seconds": 1, "threads": 2}',
        '{"version": 1, "flops": {"float32": -1, "bfloat16": 1}, "import_seconds": 1, "threads": 2}',
        '{"version": 1, "flops": {"float32": NaN, "bfloat16": 1}, "import_seconds": 1, "threads": 2}',
        '{"version": 1, "flops": 7, "import_seconds": 1, "threads": 2}',
    ],
)
def test_a_file_that_holds_no_measurement_counts_as_none(content: str) -> None:
    speed.keep(rates(130e9, 310e9))
    speed.file_of(2).write_text(content, encoding="utf-8")
    assert speed.remembered(2) is None


def test_a_cache_that_takes_nothing_is_no_fault(own_cache: Path) -> None:
    (own_cache / "machine").write_text("in the way", encoding="utf-8")
    speed.keep(rates(130e9, 310e9))
    assert speed.remembered(2) is None


def test_it_is_measured_by_another_process_and_once() -> None:
    script = (
        "import json, sys\n"
        "from jobs.machine import speed\n"
        "said = []\n"
        "first = speed.measured(1, said.append)\n"
        "again = speed.measured(1, said.append)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "print(json.dumps([first.flops, first == again, len(said)]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    flops, same, num_said = json.loads(done.stdout)
    assert same and num_said == 1
    assert set(flops) == set(speed.FORMATS) and min(flops.values()) > 1e6
