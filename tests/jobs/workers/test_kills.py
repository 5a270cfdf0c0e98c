"""A sweep that is hurt at random moments and continued: the program that tries it, and some rounds
of it.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import aftermath, fault_checks, fault_injection, faults
from benchmarks.stage import Ended, Stage


def test_accounts_that_differ_anywhere_are_told_apart() -> None:
    wanted = {
        "best": {"metrics": {"test/exact_match": 0.5}},
        "adapters": {"a.safetensors": "12"},
        "mlflow": {"trial-001": {"times": 1, "metrics": {"valid/loss": [[10, 0.5], [20, 0.4]]}}},
    }
    assert aftermath.differences(wanted, wanted) == []
    found = {
        "best": {"metrics": {"test/exact_match": 0.25}},
        "adapters": {"a.safetensors": "13"},
        "mlflow": {
            "trial-001": {"times": 2, "metrics": {"valid/loss": [[10, 0.5], [10, 0.5], [30, 0.4]]}}
        },
    }
    assert aftermath.differences(found, wanted) == [
        'adapters/a.safetensors: "13" instead of "12"',
        "best/metrics/test/exact_match: 0.25 instead of 0.5",
        "mlflow/trial-001/metrics/valid/loss: twice at [10]",
        "mlflow/trial-001/metrics/valid/loss: missing at [20]",
        "mlflow/trial-001/metrics/valid/loss: too much at [30]",
        "mlflow/trial-001/times: 2 instead of 1",
    ]
    found["mlflow"]["trial-001"]["metrics"]["valid/loss"] = [[10, 0.5], [20, 0.3]]
    assert "mlflow/trial-001/metrics/valid/loss: other values" in aftermath.differences(
        found, wanted
    )
    assert aftermath.differences({}, {"trials": {"1": {}}}) == ['trials: null instead of {"1": {}}']


def test_what_mlflow_holds_is_read_whole(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table runs (run_uuid, name, status, lifecycle_stage)")
        database.execute("create table metrics (run_uuid, key, step, value)")
        database.executemany(
            "insert into runs values (?, ?, 'FINISHED', ?)",
            [("a", "t", "active"), ("b", "t", "active"), ("c", "u", "deleted")],
        )
        rows = [
            ("a", "valid/loss", 2, 0.5),
            ("a", "valid/loss", 1, 0.7),
            ("a", "train/tokens_per_second", 1, 9.0),
        ]
        database.executemany("insert into metrics values (?, ?, ?, ?)", rows)
    found = aftermath.tracked(tmp_path / "mlflow.db")
    assert set(found) == {"t"} and found["t"]["times"] == 2


def test_what_is_left_is_seen(tmp_path: Path) -> None:
    storage, temporary = tmp_path / "storage", tmp_path / "temporary"
    for folder in (storage / "sweeps" / "a-1" / "tune", temporary):
        folder.mkdir(parents=True)
    before = {entry.name for entry in aftermath.SHARED_MEMORY.iterdir()}
    assert aftermath.left_now(storage, temporary, "a-mark-of-this-test", before) == []
    (temporary / "half").write_text("x")
    (storage / ".owner").write_text("x")
    (storage / "result.json.draft").write_text("x")
    left = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); input()", "a-mark-of-this-test"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert left.stdout is not None and left.stdout.readline(), "it runs by now"
    try:
        found = "\n".join(aftermath.left_now(storage, temporary, "a-mark-of-this-test", before))
        assert all(
            word in found
            for word in (
                f"process {left.pid}",
                "temporary half",
                "owner .owner",
                "draft result.json.draft",
            )
        )
    finally:
        left.communicate()
    assert aftermath.litter(storage) == ["folder sweeps/a-1/tune"]


def test_every_kind_of_fault_takes_its_turn_and_the_seed_decides_when() -> None:
    all_kinds = sorted((*faults.KINDS, *faults.ACTIONS))
    count = len(all_kinds)

    def drawn(seed: str) -> list[str]:
        options = faults.parse(["--seed", seed])
        return [faults.kind_of(number, options) for number in range(1, 2 * count + 1)]

    kinds = drawn("5")
    assert sorted(kinds[:count]) == sorted(kinds[count:]) == all_kinds
    assert kinds == drawn("5")
    assert kinds != drawn("6")
    for wrong in (["--kinds", "head-kill"], ["--kinds", "group-stop"], ["--executors", "packs"]):
        with pytest.raises(SystemExit) as ended:
            faults.parse(wrong)
        assert ended.value.code == 2


def test_no_fault_comes_when_what_it_hits_is_gone() -> None:
    phases = {
        kind: {fault_injection.phase_of(kind, random.Random(f"{kind} {n}")) for n in range(60)}
        for kind in (*faults.KINDS, *faults.ACTIONS)
    }
    for kind, there in phases.items():
        trains_only = kind.startswith(("trial-", "controller-", "checkpoint-"))
        assert ("judging" not in there) == trains_only, kind
        writes = kind.startswith(("checkpoint-", "disk-", "command-"))
        assert ("starting" not in there) == writes, kind
        assert "training" in there


def test_an_end_that_says_nothing_or_too_much_is_a_problem(tmp_path: Path) -> None:
    stage = Stage(tmp_path, tmp_path, "pack")
    stage.close()
    good = Ended(
        1, "", "error: Ray's raylet process was ended; the same command continues\n", 1.0, 1.0
    )
    assert fault_checks.check_end(stage, good, "raylet-kill", "training") == []
    for ended, word in (
        (Ended(1, "", "", 1.0, 1.0), "0 error lines"),
        (
            Ended(1, "", "Traceback (most recent call last):\n" + good.err, 1.0, 1.0),
            "traceback",
        ),
        (Ended(1, "", good.err, 1.0, 60.0), "60 s after"),
        (Ended(2, "", good.err, 1.0, 1.0), "code 2, not 1"),
        (Ended(1, "", "error: lost\n", 1.0, 1.0), "what continues"),
        (Ended(-999, "", "", 1.0, 1.0), "hangs"),
    ):
        assert any(
            word in problem
            for problem in fault_checks.check_end(stage, ended, "raylet-kill", "training")
        ), word


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "kinds",
    [
        "driver-kill,group-term,coordinator-kill",
        "raylet-kill,gcs-kill,worker-kill,trial-kill",
        "worker-stop,driver-stop,checkpoint-flip,checkpoint-cut",
        "disk-full,disk-abort,disk-freeze,server-kill,command-twice",
    ],
)
def test_a_sweep_that_is_hurt_and_continued_ends_as_the_undisturbed_one(
    kinds: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    arguments = [
        "--rounds",
        str(len(kinds.split(","))),
        "--seed",
        "4",
        "--kinds",
        kinds,
        "--executors",
        "pack",
        "--results",
        str(tmp_path),
    ]
    assert faults.main(arguments) == 0, f"see the table above; {time.monotonic() - began:.0f} s"
