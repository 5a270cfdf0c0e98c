"""Which executor trains, what the user is told about it, and that the result does not depend on
it.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.config.executor import choose
from orchestrator.errors import InputError
from orchestrator.pipeline import SweepCommand
from orchestrator.plan.resources import Node, divide
from tests.support.alone import scores_alone
from tests.support.plain import architecture
from tests.support.settings import build

RATE = "lr: {path: optim.lr, type: linked, to: adapter.rank, values: [0.005, 0.001]}"
SPACE = f"sweep.space={{rank: {{path: adapter.rank, type: grid, values: [2, 8]}}, {RATE}}}"


def config(*overrides: str) -> Any:
    """A checked configuration of the default sweep."""
    return build(compose(["+sweep=lora", "model=tiny", *overrides], None))


def reports(storage: Path) -> dict[tuple[int, int], dict[str, float]]:
    """Metrics by trial and step, as the journal has them."""
    events = [
        json.loads(line)
        for file in storage.glob("sweeps/*/journal.jsonl")
        for line in file.read_text().splitlines()
    ]
    return {
        (e["trial"], e["step"]): e["metrics"]
        for e in events
        if e["kind"] == "report" and "valid/loss" in e["metrics"]
    }


def test_lora_trials_are_packed_and_others_are_not_for_a_reason() -> None:
    assert choose(config()) == ("pack", None)
    assert choose(
        config(
            "adapter.dropout=0.1",
            "+sweep.space.drop={path: adapter.dropout, type: uniform, low: 0, high: 0.2}",
        )
    ) == (
        "pack",
        None,
    )
    assert choose(config("executor=plain")) == ("plain", None)
    either = "sweep.space={kind: {path: adapter.kind, type: choice, values: [lora, full]}}"
    assert choose(config("adapter=full", either))[0] == "plain", (
        "which of the two is a question that a sweep may ask"
    )
    for override in (
        "adapter=full",
        "sweep.space={t: {path: adapter.targets, type: choice, values: [q_proj, v_proj]}}",
    ):
        executor, reason = choose(config(override))
        assert executor == "plain" and reason and "adapter." in reason


def test_slots_packs_and_cores_are_shared_out() -> None:
    one = divide(config("sweep.num_trials=20"), 20, (Node(6, 0),), "pack")
    assert (one.packs, one.concurrent, one.workers, one.cpus, one.gpus) == (1, 12, 1, 6, 0)
    gpus = divide(config("sweep.num_trials=20"), 20, (Node(16, 4),), "pack")
    assert (gpus.packs, gpus.concurrent, gpus.cpus, gpus.gpus) == (4, 20, 4, 1)
    pairs = divide(config("sweep.num_trials=3", "train.num_workers=2"), 3, (Node(16, 4),), "pack")
    assert (pairs.packs, pairs.workers, pairs.cpus) == (2, 2, 4)
    few = divide(config("sweep.max_concurrent=1"), 6, (Node(16, 4),), "pack")
    assert (few.packs, few.concurrent) == (1, 1)


def test_a_pack_that_cannot_be_is_refused_before_anything_starts(
    command: Any, tmp_path: Path
) -> None:
    done = command("executor=pack", "adapter=full", f"storage={tmp_path}")
    assert done.code == 2
    assert (
        "executor" in done.err and "adapter.kind=full" in done.err and "executor=plain" in done.err
    )
    assert not list(tmp_path.glob("sweeps/*"))


@pytest.mark.parametrize("executor", ["pack", pytest.param("plain", marks=pytest.mark.slow)])
def test_trials_score_in_a_sweep_as_each_does_by_itself(
    command: Any, toy: Path, base: BaseModel, tmp_path: Path, executor: str
) -> None:
    arguments = (
        SPACE,
        "adapter.dropout=0.1",
        "train.steps=20",
        "train.eval_every=10",
        "train.dtype=float32",
    )
    done = command(*arguments, f"executor={executor}", f"storage={tmp_path}")
    assert done.code == 0, done.err
    measured = {key: metrics["valid/loss"] for key, metrics in reports(tmp_path).items()}
    alone = scores_alone(toy, base, *arguments)
    assert len(alone) == 4 and measured.keys() == alone.keys()
    for key, loss in alone.items():
        assert abs(measured[key] - loss) < 1e-4 * (1 + loss), key


@pytest.fixture
def unpackable(base: BaseModel, tmp_path: Path) -> tuple[str, ...]:
    """A short sweep of a model whose attention takes what a pack does not hand on."""
    architecture("StableLm", tmp_path / "model", base)
    return (
        "model=path",
        f"model.path={tmp_path / 'model'}",
        "model.name=stable",
        "train.steps=4",
        "train.eval_every=4",
        f"storage={tmp_path / 'storage'}",
    )


def test_a_model_that_cannot_be_packed_takes_the_plain_executor_and_says_why(
    command: Any, unpackable: tuple[str, ...]
) -> None:
    done = command(*unpackable)
    assert done.code == 0, done.err
    assert "cannot be packed" in done.err and "keyword arguments" in done.err
    assert done.result["trials"]["finished"] == 1


def test_who_insists_on_a_pack_is_refused_where_the_model_cannot_be_packed() -> None:
    sweep: Any = SimpleNamespace(
        base=SimpleNamespace(name="stable"), config=config("executor=pack"), journal=None
    )
    sweep_state: Any = SimpleNamespace(pack_rejection="it takes keyword arguments")
    with pytest.raises(InputError) as refused:
        SweepCommand.step_aside(sweep, sweep_state)
    assert refused.value.exit_code == 2
    assert str(refused.value) == (
        "executor=pack: stable cannot be packed: it takes keyword arguments; executor=plain trains "
        "each trial by itself"
    )


@pytest.mark.slow
def test_a_whole_command_that_insists_on_a_pack_ends_as_bad_input(
    command: Any, unpackable: tuple[str, ...]
) -> None:
    done = command(*unpackable, "executor=pack")
    assert done.code == 2
    assert "executor=plain" in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_a_stopped_plain_trial_gives_its_core_back(command: Any, tmp_path: Path) -> None:
    # On one core the third trial can only train once the second, which is stopped, has let go of
    # it.
    space = "sweep.space={lr: {path: optim.lr, type: grid, values: [0.01, 0.000001, 0.005]}}"
    arguments = (
        "executor=plain",
        "cluster.num_cpus=1",
        "sweep.scheduler=asha",
        "sweep.metric=valid/loss",
        "train.steps=8",
        "train.eval_every=4",
    )
    done = command(space, *arguments, f"storage={tmp_path}")
    assert done.code == 0, done.err
    trials = done.result["trials"]
    assert (
        trials["failed"] == 0
        and trials["stopped"] >= 1
        and trials["finished"] + trials["stopped"] == 3
    )
    assert (3, 4) in reports(tmp_path)
