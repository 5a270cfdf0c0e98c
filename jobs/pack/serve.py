"""The pack at work: seat the trials that came, train those with credit to their next rung, hand in what came out, again until all is over.

Free of Ray: `Desk` is how it hears and speaks.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

from jobs import store
from jobs.config import Train
from jobs.course import shortened
from jobs.pack.engine import Pack
from jobs.seats import Boundary, Seat

REPORT = "report.json"
DISK_MARGIN = 3


class Desk(Protocol):
    """Between a pack's workers and the roster. Every worker calls the same methods in the same order and hears the same."""

    def company(self) -> list[Seat] | None:
        """Who sits in the pack, once that is settled; None when the sweep is over."""

    def left(self, tickets: dict[int, int]) -> bool:
        """Whether someone has left since."""
        ...

    def hand_in(self, boundary: Boundary, tickets: dict[int, int]) -> None:
        """What came out at a step boundary."""

    def tell(self, steps: dict[int, tuple[int, dict[str, float]]]) -> None:
        """Metrics of one step, by trial; nobody waits for them."""


class Shelf:
    """Where checkpoints lie: trial-NNN/step-NNNNNN under one folder. A trial's newest is kept, and its best by the sweep's metric."""

    def __init__(self, folder: Path, metric: str, maximise: bool) -> None:
        self.folder, self.metric, self.maximise = folder, metric, maximise
        self.size = 0

    def put(self, pack: Pack, index: int, report: dict[str, Any] | None) -> str:
        """Write a slot's checkpoint, with its report if it has reached a rung; returns the folder. Raises OSError when the disk is full."""
        home = self.folder / f"trial-{index:03d}"
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
        if free < DISK_MARGIN * self.size:
            raise OSError(f"disk full: {free / 1e6:.0f} MB free in {home}, a checkpoint needs {self.size / 1e6:.0f} MB; free some space")
        target = home / f"step-{pack.slots[index].step:06d}"
        draft = home / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        pack.save(index, draft)
        if report is not None:
            (draft / REPORT).write_text(json.dumps(report), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        self.size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        self.tidy(home, target)
        return str(target)

    def tidy(self, home: Path, newest: Path) -> None:
        """Delete what is neither the newest nor the best."""
        scored = [(self.score(folder), folder.name, folder) for folder in home.glob("step-*")]
        best = max((item for item in scored if item[0] is not None), default=None)
        for _, _, folder in scored:
            if folder != newest and (best is None or folder != best[2]):
                shutil.rmtree(folder, ignore_errors=True)

    def score(self, folder: Path) -> float | None:
        """The metric of a checkpoint, higher being better; None without one."""
        file = folder / REPORT
        value = json.loads(file.read_text(encoding="utf-8")).get(self.metric) if file.exists() else None
        return None if value is None or value != value else value if self.maximise else -value


class RemoteShelf(Shelf):
    """A shelf of this process whose content is copied to an object store; what a former process left there is not touched."""

    def __init__(self, folder: Path, place: str, metric: str, maximise: bool) -> None:
        super().__init__(folder, metric, maximise)
        self.place = place
        self.copied: dict[Path, str] = {}

    def put(self, pack: Pack, index: int, report: dict[str, Any] | None) -> str:
        """See Shelf; returns the URI. Raises OSError when the store does not take it."""
        own = Path(super().put(pack, index, report))
        there = store.join(self.place, own.parent.name, own.name)
        store.put(own, there)
        self.copied[own] = there
        for gone in [folder for folder in self.copied if not folder.exists()]:
            store.remove(self.copied.pop(gone))
        return there


def next_rung(step: int, train: Train) -> int:
    """The step at which a trial that has done `step` steps is evaluated next."""
    return min((step // train.eval_every + 1) * train.eval_every, train.steps)


def serve(pack: Pack, desk: Desk, shelf: Shelf) -> None:
    """Train until the sweep is over. Raises MemoryError when not even one example fits, OSError when the disk is full."""
    seated: dict[int, int] = {}
    while (company := desk.company()) is not None:
        failures = seat(pack, company, seated)
        if failures:
            desk.hand_in(Boundary({}, {}, failures), dict(seated))
            continue
        going = {place.index: next_rung(pack.slots[place.index].step, place.trial.train) for place in company if place.credit}
        if not going:
            time.sleep(0.05)
        while going and not desk.left(seated):
            unreadable = {index: reason for index in going if (reason := pack.unreadable(index))}
            if unreadable:
                desk.hand_in(Boundary({}, {}, unreadable), dict(seated))
                break
            metrics = pack.step(list(going))
            desk.tell({index: (pack.slots[index].step, own) for index, own in metrics.items()})
            failed = {index: reason for index in going if (reason := pack.failure(index))}
            due = [index for index, rung in going.items() if pack.slots[index].step >= rung and index not in failed]
            if due or failed:
                desk.hand_in(boundary(pack, shelf if pack.world.rank == 0 else None, metrics, due, failed), dict(seated))
                break


def seat(pack: Pack, company: list[Seat], seated: dict[int, int]) -> dict[int, str]:
    """Bring the slots in line with who sits in the pack; returns why some could not be seated."""
    present, failures = {place.index: place for place in company}, {}
    for index in [index for index, ticket in seated.items() if index not in present or present[index].ticket != ticket]:
        if index in pack.slots:
            pack.leave(index)
        del seated[index]
    for place in company:
        if place.index not in seated:
            try:
                pack.join(place.index, place.trial, Path(store.get(place.checkpoint)) if place.checkpoint else None)
            except (ValueError, FileNotFoundError) as error:
                failures[place.index] = str(error)
            seated[place.index] = place.ticket
    return failures


def boundary(pack: Pack, shelf: Shelf | None, metrics: Any, due: list[int], failed: dict[int, str]) -> Boundary:
    """Evaluate who is due and take a snapshot of every slot at this one step."""
    tallies = pack.evaluate(due)
    reports = {
        index: {
            "step": pack.slots[index].step,
            **metrics[index],
            **tallies[index].metrics(),
            **pack.slots[index].course.drawn(pack.slots[index].step),
            **shortened("valid", pack.corpus(pack.slots[index].trial)[2]),
        }
        for index in due
    }
    if shelf is None:
        return Boundary({}, reports, failed)
    alive = [index for index in pack.slots if index not in failed]
    snapshots = {index: (shelf.put(pack, index, reports.get(index)), pack.slots[index].step) for index in alive}
    return Boundary(snapshots, reports, failed)
