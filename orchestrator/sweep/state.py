"""The state of a running sweep that searcher, scheduler, recorder and stopper share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jobs.config import BaseModel, Trial, WorkerSpec
from jobs.evaluation import registry
from jobs.files import filesystem
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.metric import scoring_of
from orchestrator.plan.planner import Plan
from orchestrator.storage.journal import Journal, Record
from orchestrator.sweep.allowance import Allowance
from orchestrator.sweep.earlier_records import as_before
from orchestrator.sweep.logged_steps import Logged
from orchestrator.sweep.sampler import Sampler
from orchestrator.sweep.shared_slots import SharedSlots
from orchestrator.sweep.standing import Standing
from orchestrator.sweep.steering import Steering

if TYPE_CHECKING:
    from jobs.workers.coordinator import CoordinatorHandle


class SweepState:
    """Who has a slot, what is recorded, and why the sweep should end."""

    def __init__(
        self,
        plan: Plan,
        base: BaseModel,
        journal: Journal,
        screen: ProgressDisplay,
        common: Mapping[str, object],
        back: Mapping[int, int] | None = None,
    ) -> None:
        """`back` holds the trials that go back, and to which step; see rewind.py."""
        self.plan = plan
        self.base = base
        self.journal = journal
        self.screen = screen
        self.config = plan.config
        self.common = common
        """What the tracking store keeps with every trial: tags and the composed configuration."""
        self.metric = self.config.sweep.metric
        self.maximise = self.config.sweep.maximise
        self.scoring = dataclasses.replace(
            scoring_of(self.config), max_new_tokens=plan.max_new_tokens
        )
        self.records = journal.records()
        self.steering = Steering(journal.events())
        self.earlier = {
            index: record for index, record in self.records.items() if self.belongs(index)
        }
        constraint = None if plan.shipping is None else plan.shipping.constraint
        self.search = Sampler(self.config, plan.num_trials, dict(self.earlier), constraint)
        self.earlier |= {
            index: as_before(self.records[index], step) for index, step in (back or {}).items()
        }
        self.logged = Logged(journal.events())
        self.slots_taken: set[int] = set()
        self.interrupted = False
        self.abort_reason: str | None = None
        self.pack_rejection: str | None = None
        """Why the packs have stepped aside, once they have: the sweep starts again with the plain
        executor.
        """
        self.crowded: str | None = None
        """Why so many trials at once do not fit into the memory, once they do not: what is left is
        done by fewer at once.
        """
        self.lost: str | None = None
        """Which process of its own the sweep has lost, once it has: what is left is done by another
        run of it.
        """
        self.fault: str | None = None
        """What the machine has refused, once it has: the sweep is interrupted, and nobody is judged
        by it.
        """
        self.damaged: tuple[str, str] | None = None
        """Place of a checkpoint that cannot be used, and why: the sweep starts again from one
        before it.
        """
        self.coordinator: CoordinatorHandle = None
        self.shared: SharedSlots | None = None
        """Whom the slots and packs are shared with while a fleet trains."""
        self.started: set[int] = set()
        """Trials that Tune has started."""
        self.standings: list[Standing] = []
        """The finalists, best first, once the sweep has ended; see finalists.py."""
        self.ended: set[int] = set()
        """Trials whose end is written down."""
        self.allowance = Allowance(self, getattr(screen, "spending", None))
        """What the budget allows."""

    @property
    def packed(self) -> bool:
        """Whether trials train in packs."""
        return self.plan.resources.packs > 0

    @property
    def halted(self) -> bool:
        """Whether trials end for no reason of their own."""
        return self.interrupted or any(
            why is not None
            for why in (self.fault, self.pack_rejection, self.damaged, self.lost, self.crowded)
        )

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles what it is given for a restore that we never do, since the journal
        is the state.
        """
        return {}

    def best(self) -> Record | None:
        """The best trial so far by the sweep's metric; of two equals the one with the lower
        validation loss, then the earlier one.

        An earlier run may have had more trials than are asked for now: those are not of this sweep.
        """
        ranked = [
            (rank, record) for record in self.asked_for() if (rank := self.rank(record)) is not None
        ]
        return max(ranked, key=lambda item: item[0])[1] if ranked else None

    def asked_for(self) -> Iterator[Record]:
        """What is known of the trials that the sweep has now."""
        return (record for index, record in self.records.items() if self.belongs(index))

    def belongs(self, index: int) -> bool:
        """Whether a trial is one of this sweep's: an earlier run may have had more than are asked
        for now.
        """
        return 1 <= index <= self.plan.num_trials or index in self.steering.copies

    def extra_copies(self) -> list[int]:
        """The numbers of the changed copies beyond the trials that are asked for."""
        return sorted(n for n in self.steering.copies if n > self.plan.num_trials)

    def numbers(self) -> list[int]:
        """The trials by number, in the order in which they start: changed copies come last."""
        return [*range(1, self.plan.num_trials + 1), *self.extra_copies()]

    def total(self) -> int:
        """How many trials the sweep has, changed copies among them."""
        return len(self.numbers())

    def rank(self, record: Record) -> tuple[float, float, float, int] | None:
        """What trials are compared by, higher being better; None for one that has failed or has no
        score. A score on all rows counts more than one on some, which a lucky choice of them may
        have lifted.
        """
        best = None if record.state == "failed" else record.best(self.metric, self.maximise)
        if best is None:
            return None
        step, value = best
        loss = record.reports[step].get(registry.VALID_LOSS, 0.0)
        answered = record.reports[step].get(registry.NUM_ANSWERED, 0.0)
        return (
            answered,
            value if self.maximise else -value,
            -loss if loss == loss else -math.inf,
            -record.index,
        )  # NaN has no order

    @property
    def most_kept(self) -> int:
        """How many of the trials that have ended keep their checkpoints: the finalists go on from
        theirs.
        """
        return max(self.config.final.count, 1)

    def full(self) -> bool:
        """Whether all slots are taken, or none of those that are shared is due."""
        if self.shared is not None:
            return self.shared.full(self)
        return len(self.slots_taken) >= self.plan.resources.concurrent

    def trial(self, index: int) -> Trial:
        """A trial's settings, for it to start with; its point is written down the first time."""
        copied = self.steering.copies.get(index)
        point = self.search.next_point(index) if copied is None else copied
        trial = self.plan.trial_of(index, point)
        self.records.setdefault(index, Record(index)).point = point
        return trial

    def stopped_inside(self, index: int) -> str | None:
        """Why an earlier run has ended a trial inside a rung, so that it is not trained on."""
        earlier = self.earlier.get(index)
        return None if earlier is None else earlier.inside

    def trained(self, index: int) -> Trial:
        """The settings that a trial has been trained with, as the journal has them. Asked again, a
        search may propose others.
        """
        return self.plan.trial_of(index, self.records[index].point)

    @property
    def watched(self) -> int | None:
        """One in so many trials survives a rung, where losses may end one inside it."""
        sweep = self.config.sweep
        if not sweep.loss_curves or sweep.scheduler == "none" or self.plan.num_trials < 2:
            return None
        return sweep.reduction

    def place(self, *names: str) -> str:
        """A place of this sweep in the storage: a folder, or a URI."""
        if filesystem.is_uri(self.config.storage):
            return filesystem.join(self.config.storage, "sweeps", self.plan.name, *names)
        return filesystem.join(str(self.journal.folder), *names)

    def assignment(self, trial: Trial) -> WorkerSpec:
        """What the trial's processes need to know."""
        resources = self.plan.resources
        return WorkerSpec(
            sweep=self.plan.name if self.shared is None else self.shared.name,
            task=0 if self.shared is None else self.shared.number_of(self),
            trial=trial,
            base=self.base,
            storage=self.place("train"),
            metric=self.metric,
            maximise=self.maximise,
            cpus=resources.cpus,
            gpus=resources.gpus,
            num_trials=self.plan.num_trials,
            alone=resources.packs == 0 and resources.concurrent == 1,
            scoring=self.scoring,
            watched=self.watched,
        )
