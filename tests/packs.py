"""Packs of a few trials that differ in all that may differ, for tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from plain import make

from jobs.config import BaseModel, Trial
from jobs.finetune import World
from jobs.pack.check import why_not
from jobs.pack.engine import Pack
from jobs.pack.frames import Frames


def varied(rows: Path) -> dict[int, Trial]:
    """Three trials that differ in all that may differ within a pack."""
    first = make(rows)
    second = make(rows, rank=8, alpha=8.0, lr=1e-3, batch_size=9, max_norm=10.0, weight_decay=0.1)
    third = dataclasses.replace(make(rows, rank=2, lr=3e-3, batch_size=3, max_norm=0.01, beta2=0.95), seed=7)
    return {1: first, 2: second, 5: third}


def open_pack(
    base: BaseModel, trials: dict[int, Trial], sharing: bool = True, world: World | None = None, frames: bool | None = None
) -> Pack:
    """A checked pack with all trials in it. `frames`: whether rows are filled up as on a GPU."""
    pack = Pack(base, next(iter(trials.values())), world)
    pack.sharing = sharing
    if frames is not None:
        pack.frames = Frames(pack.device, pack.say) if frames else None
    assert why_not(pack, next(iter(trials.values()))) is None
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
