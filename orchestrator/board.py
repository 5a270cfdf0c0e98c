"""The state of a running sweep that searcher, scheduler, recorder and stopper share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jobs import store
from jobs.config import Assignment, BaseModel, Trial
from orchestrator.journal import Journal, Record
from orchestrator.logged import Logged
from orchestrator.plan import Plan
from orchestrator.rewind import as_before
from orchestrator.screen import Screen
from orchestrator.search import Search
from orchestrator.validation import trial_of

if TYPE_CHECKING:
    from orchestrator.recorder import Recorder


class Board:
    """Who holds a seat, what is recorded, and why the sweep should end."""

    def __init__(
        self, plan: Plan, base: BaseModel, journal: Journal, screen: Screen, common: dict[str, Any], back: dict[int, int] | None = None
    ) -> None:
        """`back` holds the trials that go back, and to which step; see rewind.py."""
        self.plan, self.base, self.journal, self.screen = plan, base, journal, screen
        self.config = plan.config
        self.common = common
        """What the tracking store keeps with every trial: tags and the composed configuration."""
        self.metric, self.maximise = self.config.sweep.metric, self.config.sweep.maximise
        self.records = journal.records()
        self.earlier = {index: record for index, record in self.records.items() if record.index <= plan.num_trials}
        self.search = Search(self.config, plan.num_trials, dict(self.earlier))
        self.earlier |= {index: as_before(self.records[index], step) for index, step in (back or {}).items()}
        self.logged = Logged(journal.events())
        self.seats: set[int] = set()
        self.interrupted = False
        self.fatal: str | None = None
        self.aside: str | None = None
        """Why the packs have stepped aside, once they have: the sweep starts again with the plain executor."""
        self.lost: str | None = None
        """Which process of its own the sweep has lost, once it has: what is left is done by another run of it."""
        self.fault: str | None = None
        """What the machine has refused, once it has: the sweep is interrupted, and nobody is judged by it."""
        self.damaged: tuple[str, str] | None = None
        """Place of a checkpoint that cannot be used, and why: the sweep starts again from one before it."""
        self.roster: Any = None
        self.recorder: Recorder

    @property
    def packed(self) -> bool:
        """Whether trials train in packs."""
        return self.plan.resources.packs > 0

    @property
    def halted(self) -> bool:
        """Whether trials end for no reason of their own."""
        return self.interrupted or any(why is not None for why in (self.fault, self.aside, self.damaged, self.lost))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given for a restore that we never do, since the journal is the state."""
        return {}

    def best(self) -> Record | None:
        """The best trial so far by the sweep's metric; of two equals the one with the lower validation loss, then the earlier one."""
        ranked = [(rank, record) for record in self.records.values() if (rank := self.rank(record)) is not None]
        return max(ranked, key=lambda item: item[0])[1] if ranked else None

    def rank(self, record: Record) -> tuple[float, float, int] | None:
        """What trials are compared by, higher being better; None for one that has failed or has no score."""
        best = None if record.state == "failed" else record.best(self.metric, self.maximise)
        if best is None:
            return None
        step, value = best
        loss = record.reports[step].get("valid/loss", 0.0)
        return (value if self.maximise else -value, -loss if loss == loss else -math.inf, -record.index)  # NaN has no order

    def full(self) -> bool:
        """Whether all seats are taken."""
        return len(self.seats) >= self.plan.resources.concurrent

    def trial(self, index: int) -> Trial:
        """The trial's settings; its point is written down the first time."""
        point = self.search.next_point(index)
        trial = trial_of(self.config, index, point)
        self.records.setdefault(index, Record(index)).point = point
        return trial

    def place(self, *names: str) -> str:
        """A place of this sweep in the storage: a folder, or a URI."""
        if store.is_uri(self.config.storage):
            return store.join(self.config.storage, "sweeps", self.plan.name, *names)
        return store.join(str(self.journal.folder), *names)

    def assignment(self, trial: Trial) -> Assignment:
        """What the trial's processes need to know."""
        resources = self.plan.resources
        return Assignment(
            sweep=self.plan.name,
            trial=trial,
            base=self.base,
            storage=self.place("train"),
            metric=self.metric,
            maximise=self.maximise,
            cpus=resources.cpus,
            gpus=resources.gpus,
            num_trials=self.plan.num_trials,
        )
