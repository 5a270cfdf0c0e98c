"""A sweep's journal and checkpoints as a sweep writes them, without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.files.checkpoints import CheckpointStore
from jobs.files.manifest import Snapshot
from orchestrator.config.compose import compose
from orchestrator.plan import planner as planning
from orchestrator.storage.journal import Journal
from orchestrator.storage.paths import sweep_folder
from orchestrator.sweep.state import SweepState
from tests.support.settings import build


def write(folder: Path) -> None:
    (folder / "state").write_text("x")


class Screen:
    """What is said to the user."""

    def __init__(self, notes: list[str]) -> None:
        self.note = notes.append


class TrainedSweep:
    """A sweep's journal and checkpoints."""

    def __init__(
        self, executor: str, toy: Path, storage: Path, base: BaseModel, *more: str
    ) -> None:
        self.notes: list[str] = []
        settings = [
            "model=tiny",
            "+sweep=lora",
            "data=files",
            f"data.folder={toy}",
            f"storage={storage}",
            "sweep.num_trials=4",
        ]
        config = build(
            compose(
                [*settings, "train.steps=60", "train.eval_every=20", f"executor={executor}", *more],
                None,
            )
        )
        self.plan, self.base = planning.make(config), base
        self.journal = Journal(sweep_folder(str(storage), self.plan.name))
        self.store = CheckpointStore(str(self.journal.folder / "train"), "valid/loss", False)
        self.journal.folder.mkdir(parents=True)

    def train(self, index: int, to: int, start: int = 0, state: str | None = None) -> None:
        """As a sweep writes it."""
        if start == 0:
            self.journal.append("trial", trial=index, point={"optim.lr": 0.01 * index})
        for step in range(start + 1, to + 1):
            self.journal.append("metrics", trial=index, step=step, metrics={"train/loss": 1.0})
            if step % 20 == 0:
                place = self.store.put(index, step, Snapshot(write, 1), {"valid/loss": 1 / step})
                self.journal.append(
                    "report",
                    trial=index,
                    step=step,
                    metrics={"valid/loss": 1 / step},
                    checkpoint=place,
                )
        if state is not None:
            self.journal.append(
                "end", trial=index, state=state, error="reason" if state == "failed" else None
            )

    def sweep_state(self, back: Mapping[int, int] | None = None) -> SweepState:
        screen: Any = Screen(self.notes)
        return SweepState(self.plan, self.base, self.journal, screen, {}, back)

    def shelf_put(self, index: int, step: int) -> None:
        """A checkpoint of which the journal has not heard."""
        self.store.put(index, step, Snapshot(write, 1))

    def harm(self, index: int, step: int) -> str:
        place = self.store.at(index, step)
        (Path(place) / "state").write_text("y")
        return place
