"""Packs of a few trials that differ in all that may differ, for tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.multiprocessing as processes

from jobs.config import BaseModel, Trial
from jobs.pack.cuda_graphs import CudaGraphCache
from jobs.pack.engine import Pack
from jobs.pack.evaluation import validate
from jobs.pack.opening import enable_packing
from jobs.training.distributed import World
from tests.support.plain import joined, make, reference

KINDS = [
    "tiny",
    "Qwen2",
    "Qwen3",
    "Gemma3Text",
    "Gemma2",
    "Phi3",
    "Phi",
    "Mistral",
    "GPT2",
    "GPTNeoX",
    "SmolLM3",
    "Granite",
    "Olmo2",
    "OPT",
]
"""Architectures that the pack is compared with plain PEFT on; tiny is the project's own model."""


def varied(rows: Path) -> dict[int, Trial]:
    """Three trials that differ in all that may differ within a pack."""
    first = make(rows)
    second = make(rows, rank=8, alpha=8.0, lr=1e-3, batch_size=9, max_norm=10.0, weight_decay=0.1)
    third = dataclasses.replace(
        make(rows, rank=2, lr=3e-3, batch_size=3, max_norm=0.01, beta2=0.95), seed=7
    )
    return {1: first, 2: second, 5: third}


def open_pack(
    base: BaseModel,
    trials: dict[int, Trial],
    sharing: bool = True,
    world: World | None = None,
    frames: bool | None = None,
) -> Pack:
    """A checked pack with all trials in it. `frames`: whether rows are filled up as on a GPU."""
    pack = Pack(base, next(iter(trials.values())), world)
    pack.sharing = sharing
    if frames is not None:
        pack.frames = CudaGraphCache(pack.device, pack.say) if frames else None
    assert enable_packing(pack, next(iter(trials.values()))) is None
    for number, trial in trials.items():
        pack.join(number, trial)
    return pack


def run(pack: Pack, steps: int) -> dict[int, list[float]]:
    """Losses of each slot over some steps."""
    losses: dict[int, list[float]] = {number: [] for number in pack.slots}
    for _ in range(steps):
        for number, metrics in pack.step(list(pack.slots)).items():
            losses[number].append(metrics["train/loss"])
    return losses


ROUNDING = 2.0**-23
"""One rounding of a float32. Plain PEFT whose first weights are moved by it shows what AdamW makes
of one; a processor rounds at each step.
"""


Ended = tuple[list[float], dict[str, torch.Tensor]]
"""Losses of a trial's steps, and the adapter that it ends with."""
REFERENCES: dict[tuple[str, str, float], Ended] = {}
"""What was trained already: one trial is held against several ways of packing it."""


def reference_end(trial: Trial, base: BaseModel, moved: float = 0.0) -> Ended:
    """How a trial ends as the tutorial trains it; see `reference`."""
    key = (repr(trial), base.path, moved)
    if key not in REFERENCES:
        losses, model = reference(trial, base, moved)
        REFERENCES[key] = (
            losses,
            {
                name.replace(".default.", "."): weight.detach()
                for name, weight in model.named_parameters()
                if weight.requires_grad
            },
        )
    return REFERENCES[key]


def assert_ends_alike(pack: Pack, number: int, losses: list[float], base: BaseModel) -> None:
    """A slot's losses and what it has learned against the tutorial's."""
    trial = pack.slots[number].trial
    expected, trained = reference_end(trial, base)
    again, others = reference_end(trial, base, ROUNDING)
    apart = max(abs(a - b) for a, b in zip(again, expected, strict=True))
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < max(
        1e-5, trial.train.steps * apart
    )
    start, _ = pack.initial.draw(trial.adapter, trial.seed)
    ended = pack.slots[number].adapter.written()
    assert trained.keys() == ended.keys()
    for name, weight in trained.items():
        update = torch.linalg.norm(weight - start[name])
        spread = torch.linalg.norm(others[name] - weight)
        assert torch.linalg.norm(ended[name] - weight) <= max(
            1e-4 * update, trial.train.steps * spread
        ), name


def worker(rank: int, size: int, trials: dict[int, Trial], base: BaseModel, folder: Path) -> None:
    """One of two data-parallel processes."""
    with joined(rank, size, folder) as world:
        pack = open_pack(base, trials, world=world)
        run(pack, 10)
        found = validate(pack, list(trials))
    if rank == 0:
        state = {number: slot.adapter.weights.data for number, slot in pack.slots.items()}
        torch.save(
            (state, {number: (t.loss, t.exact, t.rows) for number, t in found.items()}),
            folder / "found.pt",
        )


def assert_two_workers_agree(base: BaseModel, trials: dict[int, Trial], folder: Path) -> None:
    """Two data-parallel processes learn and score what one does."""
    pack = open_pack(base, trials)
    run(pack, 10)
    alone = validate(pack, list(trials))
    processes.spawn(worker, (2, trials, base, folder), nprocs=2)  # type: ignore[attr-defined]
    state, found = torch.load(folder / "found.pt", weights_only=True)
    for number, slot in pack.slots.items():
        assert torch.allclose(slot.adapter.weights.data, state[number], atol=2e-5)
        assert found[number][1:] == (alone[number].exact, alone[number].rows)
        assert abs(found[number][0] - alone[number].loss) < 1e-2
