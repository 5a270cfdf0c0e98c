"""How long the plan says that a sweep takes, and where that figure comes from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan import throughput
from orchestrator.plan.pace import MEASURE
from orchestrator.plan.resources import Node, Resources
from orchestrator.plan.throughput import rate_key, remember_rate
from orchestrator.plan.timing import Timing
from orchestrator.storage.journal import Journal


def test_the_estimate_says_where_its_rate_comes_from(plan: Any, tmp_path: Path) -> None:
    made = plan()
    assert made.estimate.origin.endswith("GFLOP/s measured here")
    server = "tracking.uri=http://mlflow:5000"
    attached = plan("cluster=attached", "cluster.address=auto", server)
    assert "an assumed" in attached.estimate.origin and attached.machine is None
    (tmp_path / "outputs").mkdir()
    key = rate_key(made.config, made.resources, made.machine_key)
    rates = {key: {"efficiency": 0.5, "sweep": "run-abc123"}}
    (tmp_path / "outputs" / "rates.json").write_text(json.dumps(rates), encoding="utf-8")
    slower = plan()
    assert slower.estimate.origin == "the rate of run-abc123 on this machine"
    assert slower.timing.step_seconds(1) == pytest.approx(2 * made.timing.step_seconds(1))
    assert "measured here" in plan("adapter=full").estimate.origin, (
        "another way to train has another rate"
    )


def test_a_rate_is_remembered_for_the_machine_as_it_is(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    (tmp_path / "outputs").mkdir()
    key = rate_key(made.config, made.resources, made.machine_key)
    rates = {key: {"efficiency": 0.5, "sweep": "run-abc123"}}
    (tmp_path / "outputs" / "rates.json").write_text(json.dumps(rates), encoding="utf-8")
    assert "run-abc123" in plan().estimate.origin
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert "measured here" in plan().estimate.origin


def test_the_estimate_counts_what_a_pack_computes_once_for_all_trials(plan: Any) -> None:
    def steps(*settings: str) -> list[float]:
        made = plan("+sweep=lora", "sweep.num_trials=6", *settings)
        shape = dataclasses.replace(made.timing.shape, layer_weights=1e12)
        heavy = Timing(
            made.config,
            shape,
            made.timing.rows,
            made.resources,
            made.timing.speed,
            made.timing.upper,
        )
        return [heavy.step_seconds(count) / count for count in (6, 1)]

    together, alone = steps("adapter.layers=0.25")
    assert alone / together == pytest.approx((2 * 0.25 + 0.75) / (2 * 0.25 + 0.75 / 6), rel=1e-3)
    together, alone = steps("adapter.layers=1")
    assert alone / together == pytest.approx(1, rel=1e-3), "each trial runs all of its rows"


def test_halving_costs_less_than_training_all_trials_to_the_end(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    rates: dict[str, Any] = {}
    first = plan("+sweep=lora", "sweep.num_trials=7")
    key = rate_key(first.config, first.resources, first.machine_key)
    rates[key] = {"efficiency": 1e-4, "sweep": "x"}
    (tmp_path / "outputs" / "rates.json").write_text(json.dumps(rates), encoding="utf-8")
    halved, whole = (
        plan("+sweep=lora", "sweep.num_trials=7", f"sweep.scheduler={name}")
        for name in ("halving", "none")
    )
    assert halved.estimate.seconds < 0.8 * whole.estimate.seconds


@pytest.mark.parametrize("slowness", [0.5, 4.0])
def test_how_fast_a_sweep_was_corrects_the_next_estimate(
    plan: Any, tmp_path: Path, slowness: float
) -> None:
    given = ("train.steps=40", "train.eval_every=40", "executor=plain")
    made = plan(*given)
    journal = Journal(tmp_path / "outputs" / "sweeps" / made.name)
    journal.folder.mkdir(parents=True)
    (phase,) = made.timing.phases(1)
    seconds = phase.seconds - phase.evaluating  # a trial's own steps are what is measured
    rate = made.config.train.batch_size * phase.steps / (slowness * seconds)
    for step in range(1, 41):
        journal.append("metrics", trial=1, step=step, metrics={MEASURE: rate})
    remember_rate(made.timing, made.machine_key, 1, journal)
    again = plan(*given)
    assert again.estimate.origin == f"the rate of {made.name} on this machine"
    (later,) = again.timing.phases(1)
    assert later.seconds == pytest.approx(slowness * phase.seconds)


def test_a_sweep_that_ended_in_its_first_rung_is_compared_with_that_rung(
    plan: Any, tmp_path: Path
) -> None:
    given = ("+sweep=lora", "sweep.num_trials=6", "train.steps=180", "train.eval_every=20")
    made = plan(*given, "sweep.minutes=null")
    journal = Journal(tmp_path / "outputs" / "sweeps" / made.name)
    journal.folder.mkdir(parents=True)
    first = made.timing.phases(6)[0]
    each = 10 * (first.seconds - first.evaluating) / first.end
    rate = made.config.train.batch_size / each
    for step in range(1, first.end + 1):
        for trial in range(1, 7):
            moment = round(1000 * each * step)
            journal.append("metrics", t=moment, trial=trial, step=step, metrics={MEASURE: rate})
    remember_rate(made.timing, made.machine_key, 6, journal)
    (kept,) = json.loads((tmp_path / "outputs" / "rates.json").read_text()).values()
    assert kept["efficiency"] == pytest.approx(0.1, rel=0.02)


def test_rates_of_other_gpus_and_formats_are_kept_apart(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plan().config
    resources = Resources(16, 1, 8, 1.0, (Node(16, 1),), 1)

    def key(gpus: list[str], dtype: Any) -> str:
        monkeypatch.setattr(throughput, "gpu_names", lambda: gpus)
        train = dataclasses.replace(config.train, dtype=dtype)
        return rate_key(dataclasses.replace(config, train=train), resources)

    keys = {key(["A100"], "float32"), key(["A100"], "bfloat16"), key(["T4"], "bfloat16")}
    assert len(keys) == 3 and key(["T4"], "bfloat16") in keys


@pytest.mark.parametrize(
    ("nodes", "gpus", "expected"),
    [
        ((Node(2),), 0, [["base", "trial 1"]]),
        ((Node(2), Node(2)), 0, [["base"], ["trial 1"]]),
        ((Node(2, 1),), 1, [["base"], ["trial 1"]]),
    ],
)
def test_one_process_judges_all_where_they_share_one_machines_cores(
    nodes: tuple[Node, ...], gpus: float, expected: list[list[str]]
) -> None:
    resources = Resources(1, 1, 2, gpus, nodes)
    assert resources.groups({"base": 2, "trial 1": 1}) == expected
    assert resources.groups({}) == []


@pytest.mark.parametrize(
    ("cores", "most", "expected"),
    [
        (2, 1, [["base", "examples", "trial 1"]]),
        (2, 3, [["base"], ["examples", "trial 1"]]),
        (4, 3, [["base"], ["examples", "trial 1"]]),
        (16, 3, [["base"], ["examples"], ["trial 1"]]),
        (5, 3, [["base", "examples", "trial 1"]]),
        (1, 3, [["base", "examples", "trial 1"]]),
    ],
)
def test_processes_that_share_a_processor_have_as_much_to_do_and_leave_no_core(
    cores: int, most: int, expected: list[list[str]]
) -> None:
    resources = Resources(1, 1, cores, 0, (Node(cores),))
    assert resources.groups({"base": 5, "trial 1": 2, "examples": 2.5}, most) == expected
