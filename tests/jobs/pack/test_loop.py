"""A pack between its rungs, without Ray: what it keeps, and that it goes on from there as if
nothing had been.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.config import BaseModel, Scoring, Trial
from jobs.evaluation import registry
from jobs.files.checkpoints import REPORT, CheckpointStore
from jobs.files.manifest import Damaged
from jobs.pack.engine import Pack
from jobs.pack.loop import serve
from jobs.pack.membership import Member, PackMembership, StepReport
from jobs.pack.task_numbers import key_of, task_of
from jobs.workers.packed_trial import with_point
from jobs.workers.task_checkpoints import TaskCheckpoints
from tests.support.packs import varied


class Client:
    """The coordinator's part: every trial asks for its next rung at once, until it has `rungs` of them;
    at a step the sweep may pause.
    """

    def __init__(
        self,
        membership: PackMembership,
        rungs: dict[int, int],
        pause: Callable[[dict[int, int]], bool] = lambda steps: False,
    ) -> None:
        self.membership, self.rungs, self.pause, self.steps = membership, rungs, pause, {}
        self.pausing = False
        self.heard: list[tuple[int, int]] = []
        self.boundaries: list[StepReport] = []
        for index in [index for index, count in rungs.items() if count > 0]:
            self.membership.let_train(index)

    def members(self) -> list[Member] | None:
        return None if self.pausing or max(self.rungs.values()) <= 0 else self.membership.members(0)

    def resting(self) -> bool:
        return self.pausing

    def left(self, lease_ids: dict[int, int]) -> bool:
        self.pausing = self.pausing or self.pause(self.steps)
        return self.pausing

    def publish(self, boundary: StepReport, lease_ids: dict[int, int]) -> None:
        self.boundaries.append(boundary)
        self.membership.publish(boundary, lease_ids)
        for index in boundary.failures:
            self.rungs[index] = 0
            self.membership.leave(index)
        for index in boundary.reports:
            self.rungs[index] -= 1
            if self.rungs[index] > 0:
                self.membership.let_train(index)

    def tell(self, steps: dict[int, tuple[int, dict[str, float]]]) -> None:
        self.steps |= {index: step for index, (step, _) in steps.items()}
        self.heard += [(index, step) for index, (step, _) in steps.items()]


def trials(rows: Path, steps: int = 8, every: int = 4) -> dict[int, Trial]:
    """Three trials that share a pack."""
    return {
        index: with_point(trial, {"train.steps": steps, "train.eval_every": every})
        for index, trial in varied(rows).items()
    }


def work(
    base: BaseModel,
    own: dict[int, Trial],
    store: CheckpointStore,
    rungs: dict[int, int],
    at: dict[int, tuple[str, int]],
    **client: Any,
) -> Client:
    """One life of a pack's worker; `at` is where each trial goes on."""
    membership = PackMembership(1, 4, len(own))
    for index, trial in own.items():
        membership.join(index, trial, *at.get(index, (None, 0)))
    told = Client(membership, dict(rungs), **client)
    serve(Pack(base, next(iter(own.values()))), told, store)
    return told


def learned(store: CheckpointStore, index: int, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    folder = Path(store.at(index, step))
    return load_file(folder / "state.safetensors") | load_file(
        folder / "model" / "adapter_model.safetensors"
    )


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_slot_that_stands_at_its_rung_keeps_its_score(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    own, store = trials(rows), CheckpointStore(str(tmp_path / "train"), "valid/loss", False)
    work(base, own, store, {1: 1, 2: 2, 5: 1}, {})
    for index in (1, 5):
        assert store.steps(index) == [4]
        report = json.loads((Path(store.at(index, 4)) / REPORT).read_text())
        assert report["step"] == 4 and report["valid/loss"] > 0
        assert store.load(index)[4] == -report["valid/loss"]
    # Also after the worker was replaced, when its slots are read from disk.
    again = CheckpointStore(store.place, "valid/loss", False)
    at = {index: (again.at(index, 4), 4) for index in (1, 5)} | {2: (again.at(2, 8), 8)}
    longer = {index: with_point(trial, {"train.steps": 12}) for index, trial in own.items()}
    client = work(base, longer, again, {1: 0, 2: 1, 5: 0}, at)
    assert (Path(again.at(1, 4)) / REPORT).exists() and again.steps(2)[-2:] == [8, 12]
    assert client.boundaries[-1].snapshots[1] == (again.at(1, 4), 4)


@pytest.mark.parametrize("pause_at", [1, 4, 6])
def test_a_pause_at_any_step_changes_no_bit_and_computes_no_step_twice(
    pause_at: int, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    own, rungs = trials(rows), {1: 2, 2: 2, 5: 2}
    calm, paused = (
        CheckpointStore(str(tmp_path / name / "train"), "valid/loss", False)
        for name in ("calm", "paused")
    )
    for store in (calm, paused):
        Path(store.place).parent.mkdir()
    work(base, own, calm, rungs, {})
    first = work(
        base, own, paused, rungs, {}, pause=lambda steps: max(steps.values(), default=0) >= pause_at
    )
    left = first.boundaries[-1].snapshots
    assert {step for _, step in left.values()} == {pause_at}
    again = CheckpointStore(paused.place, "valid/loss", False)
    second = work(base, own, again, dict.fromkeys(own, 1 if pause_at >= 4 else 2), left)
    assert sorted(first.heard + second.heard) == sorted(
        (index, step) for index in own for step in range(1, 9)
    )
    for index in own:
        assert_same(learned(calm, index, 8), learned(again, index, 8))


def test_a_damaged_checkpoint_seats_nobody(base: BaseModel, rows: Path, tmp_path: Path) -> None:
    own, store = trials(rows), CheckpointStore(str(tmp_path / "train"), "valid/loss", False)
    work(base, own, store, {1: 1, 2: 1, 5: 1}, {})
    file = Path(store.at(2, 4)) / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(
        Damaged,
        match=r"trial-002/step-000004 is damaged \(state\.safetensors does not match its checksum\)",
    ):
        work(
            base, own, store, {1: 1, 2: 1, 5: 1}, {index: (store.at(index, 4), 4) for index in own}
        )


def test_a_function_of_the_users_that_fails_on_a_trials_answers_ends_that_trial_alone(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    own, store = trials(rows), CheckpointStore(str(tmp_path / "train"), "valid/fails:on", False)
    membership = PackMembership(1, 4, len(own))
    for index, trial in own.items():
        membership.join(index, trial, None, 0)
    told = Client(membership, {1: 2, 2: 1, 5: 2})
    pack = Pack(base, own[1])
    pack.scorings = {0: fails_on_call(tmp_path, 2)}
    serve(pack, told, store)
    first, second = told.boundaries
    assert first.failures.keys() == {2} and first.reports.keys() == {1, 5}
    assert "raised ZeroDivisionError: an answer that it does not know" in first.failures[2]
    assert 2 not in first.snapshots and store.steps(2) == []
    assert second.reports[1]["valid/counted_2:score"] == 1.0 and second.reports[5]["step"] == 8


def test_a_function_that_fails_in_one_task_ends_no_trial_of_another(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    own = {key_of(1 + index % 2, index): trial for index, trial in trials(rows).items()}
    failing = key_of(1, 2)
    stores = {
        task: CheckpointStore(str(tmp_path / f"{task}"), "valid/loss", False) for task in (1, 2)
    }
    membership = PackMembership(1, 4, len(own))
    for key, trial in own.items():
        membership.join(key, trial, None, 0)
    told = Client(membership, dict.fromkeys(own, 1))
    pack = Pack(base, own[failing])
    pack.scorings = {1: fails_on_call(tmp_path, 1), 2: Scoring(metric=registry.DEFAULT)}
    serve(pack, told, TaskCheckpoints(stores))
    boundary = told.boundaries[0]
    assert boundary.failures.keys() == {failing}
    assert boundary.reports.keys() == {key for key in own if task_of(key) == 2}


def fails_on_call(folder: Path, number: int) -> Scoring:
    """A function of the user's that fails when it is called for the `number`th time."""
    name = f"counted_{number}"
    (folder / f"{name}.py").write_text(
        "calls = []\n"
        "def score(answers, references):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == {number}:\n"
        "        raise ZeroDivisionError('an answer that it does not know')\n"
        "    return 1.0\n",
        encoding="utf-8",
    )
    return Scoring(metric=f"valid/{name}:score", folder=str(folder))
