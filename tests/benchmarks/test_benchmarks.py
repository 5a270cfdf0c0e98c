"""The benchmark of makespans: peers and this project train the same, what is measured is kept, and
nothing is left running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import contenders, makespan, measure
from benchmarks.contenders import Measurement, Outcome, Work
from jobs.config import Adapter, BaseModel, Data, Model, Optim, Source, Train, Trial
from tests.conftest import ROOT, environment

pytest.importorskip(
    "accelerate", reason="transformers' Trainer needs accelerate, which `make bench` installs"
)

SMALL = [
    "--trials",
    "2",
    "--steps",
    "12",
    "--batch",
    "4",
    "--valid-rows",
    "16",
    "--model",
    "tiny",
    "--dtype",
    "float32",
]


@pytest.mark.slow
def test_trainer_alone_and_under_tune_and_the_plain_executor_end_with_the_same_losses(
    cache: Path, tmp_path: Path
) -> None:
    names = ["warm_trainer", "tune_trainer", "plain"]
    line = [
        sys.executable,
        "-m",
        "benchmarks.makespan",
        *SMALL,
        "--contenders",
        ",".join(names),
        "--tune-concurrency",
        "2",
    ]
    line += [
        "optim.warmup_steps=1",
        "--json",
        str(tmp_path / "result.json"),
        "--results",
        str(tmp_path / "results"),
    ]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment(cache))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert set(result) >= {"contenders", "ratios", "trials", "steps", "machine"}
    assert (
        set(result["machine"]) >= {"cores", "cpu", "torch", "dtype"}
        and result["machine"]["dtype"] == "float32"
    )
    assert list(result["contenders"]) == names and result["ratios"] == {}
    for row in result["contenders"].values():
        assert len(row["makespan_seconds"]) == 1 and 1 < row["makespan_seconds"][0] < 600
        assert row["peak_memory_mb"] > 100 and isinstance(row["note"], str)
    *theirs, ours = (result["contenders"][name]["final_losses"] for name in names)
    assert all(losses == pytest.approx(ours, rel=1e-4) for losses in theirs)
    assert abs(ours[0] - ours[1]) > 0.01 * ours[0], (
        "trials that end alike would not show that the peer trained the right one"
    )
    assert "loss apart" in done.stdout and "warm_trainer" in done.stdout
    assert len(list((tmp_path / "results").glob("*.json"))) == 3


@pytest.mark.slow  # a time by the clock: beside other work on the machine it says nothing
def test_a_trial_costs_little_beside_its_training(cache: Path, tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "benchmarks.overhead",
        "--trials",
        "8,40",
        "--json",
        str(tmp_path / "result.json"),
    ]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment(cache))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["seconds_per_trial"] < 0.4, (
        "0.06 on two cores; a second where seats are given to one trial at a time"
    )


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Two trials that nobody will train."""
    data = Data(name="toy", sources={"train": Source(path="train.jsonl")})
    parts: dict[str, Any] = {
        "model": Model(name="tiny", source="tiny"),
        "data": data,
        "adapter": Adapter(),
        "optim": Optim(),
    }
    trials = [Trial(index=index, seed=index, train=Train(steps=2), **parts) for index in (1, 2)]
    return Work(
        trials,
        BaseModel(name="tiny", source="tiny", id="tiny", revision="0", path=str(tmp_path)),
        [],
        2,
        0,
    )


def bench(work: Work, folder: Path, *arguments: str) -> makespan.Bench:
    """A benchmark whose results lie in `folder`."""
    options: argparse.Namespace = makespan.parse(["--results", str(folder), *arguments])
    return makespan.Bench(
        options, work, "identity", {"cores": 2, "cpu": "one", "gpu": None, "dtype": "float32"}
    )


def test_what_was_measured_is_kept_and_what_failed_is_tried_again(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def run(name: str, variant: str, work: Work) -> Measurement:
        asked.append((name, variant))
        if (name, variant) == ("trl", "padded"):
            raise RuntimeError("out of memory")
        return Measurement({"pack": 10.0, "plain": 40.0}.get(name, 30.0), 100.0, [1.0, 2.0], "")

    monkeypatch.setattr(contenders, "run", run)
    again = bench(work, tmp_path, "--contenders", "trl,plain,pack", "--repeats", "2")
    found, failed = again.measure_all()
    assert asked == [
        ("trl", "padding_free"),
        ("trl", "padded"),
        ("plain", ""),
        ("pack", ""),
        ("trl", "padding_free"),
        ("plain", ""),
        ("pack", ""),
    ]
    assert failed == {"trl padded": "out of memory"} and list(found["trl"]) == ["padding_free"]
    asked.clear()
    again.measure_all()
    assert asked == [("trl", "padded")]
    bench(work, tmp_path, "--contenders", "plain", "--fresh").measure_all()
    assert asked[1:] == [("plain", "")]


def test_the_fastest_variant_counts_and_ratios_are_over_pack(work: Work, tmp_path: Path) -> None:
    one, two = (
        [Measurement(seconds, 100.0, [1.0, 2.0], how) for seconds in (low, low + 4)]
        for low, how in ((20.0, "one"), (16.0, "two"))
    )
    own = {
        "plain": {"": [Measurement(36.0, 1.0, [1.0, 2.02], "")]},
        "pack": {"": [Measurement(9.0, 1.0, [1.0, 2.0], "")]},
    }
    result = makespan.summarise(
        {"tune_trainer": {"1": one, "2": two}, **own}, {}, bench(work, tmp_path)
    )
    row = result["contenders"]["tune_trainer"]
    assert (row["variant"], row["note"], row["makespan_seconds"]) == ("2", "two", [16.0, 20.0])
    assert row["variants"] == {"1": [20.0, 24.0], "2": [16.0, 20.0]}
    assert result["ratios"] == {"tune_trainer": 2.0, "plain": 4.0, "pack": 1.0}
    assert result["loss_differences"]["pack"] == pytest.approx(0.02 / 2.02)
    assert "18.0 (16.0..20.0)" in makespan.as_text(result) and "1: 22.0 s" in makespan.as_text(
        result
    )


def test_the_journal_gives_the_last_end_and_the_final_losses(work: Work, tmp_path: Path) -> None:
    def report(trial: int, step: int, **metrics: float) -> dict[str, Any]:
        return {
            "t": 1000,
            "kind": "report",
            "trial": trial,
            "step": step,
            "metrics": {k.replace("_", "/"): v for k, v in metrics.items()},
        }

    events = [
        report(1, 1, valid_loss=9.0),
        report(1, 2, valid_loss=1.5),
        {"t": 5000, "kind": "end", "trial": 1, "state": "finished", "error": None},
    ]
    journal = tmp_path / "sweeps/lora-1/journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(
        "".join(json.dumps(event) + "\n" for event in events) + '{"t": 60', encoding="utf-8"
    )
    assert contenders.read_journal(tmp_path, work) is None
    events += [
        report(2, 2, valid_loss=2.5),
        {"t": 7000, "kind": "end", "trial": 2, "state": "finished", "error": None},
    ]
    events += [report(2, 2, test_exact=0.5)]
    journal.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    assert contenders.read_journal(tmp_path, work) == Outcome(7.0, [1.5, 2.5])
    journal.write_text(
        '{"t": 1, "kind": "end", "trial": 1, "state": "failed", "error": "no memory"}\n',
        encoding="utf-8",
    )
    with pytest.raises(RuntimeError, match="trial 1 failed: no memory"):
        contenders.read_journal(tmp_path, work)


@pytest.mark.slow
def test_memory_counts_every_process_and_none_is_left(tmp_path: Path) -> None:
    child = "import os, time; held = bytearray(os.urandom(1)) * 80_000_000; open('ready', 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; held = bytearray(b'x') * 80_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    ready, since = tmp_path / "ready", []

    def done() -> bool:
        if ready.exists():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] > 1.5

    code = f"import os; os.chdir({str(tmp_path)!r}); {parent}"
    watched = measure.run(
        [sys.executable, "-c", code], environment(tmp_path), tmp_path / "log.txt", done
    )
    assert 160 < watched.peak_memory_mb < 260
    assert not psutil.pid_exists(int(ready.read_text()))
