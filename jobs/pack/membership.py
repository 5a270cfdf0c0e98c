"""Which trial is a member of which pack, and what came out: the bookkeeping between Tune's trials
and the packs. Pure.

Implementation notes
--------------------
The states of a member, and who moves it:

                 join (trial)             let_train (trial)
    no member ----------------> undecided ----------------> may train
        ^                         |   ^                        |
        |    leave (trial)        |   |   publish (pack):      |
        +-------------------------+   +-- rung reached, -------+
        |                                 or failed            |
        +------------------------------------------------------+
                      leave (trial or driver)

- A new lease is given at each `join`: a report with an old `lease_id` is dropped, and the pack
  sees that another trial has the slot.
- `expect(index, False)` (driver) sets a trial away: it has ended or waits for the others of its
  rung. Nobody waits for it, and it takes no slot, even if it is a member still.

A pack trains its members that may train, and hands in the snapshots of all slots and the due
reports at one step boundary.

Invariant: which trials train together does not depend on which process was faster, because the
rounding of a product depends on its size. So a pack begins only when every trial that will come
has come (`everyone_joined`), and each of its members has decided (`members_ready`). A member that
has been undecided for UNDECIDED_SECONDS no longer holds the others up: its process may be dead.

Cost: each call touches one trial, `members` one pack. Present members are counted as they change,
because thousands of trials ask at every boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.config import Trial

UNDECIDED_SECONDS = 30.0
"""A trial that has not said for so long whether it goes on holds nobody up any more: its process
may have been killed.
"""


RungMetrics = dict[str, float]
"""What came out at a rung, by name; "step" among them, an int."""


class SavedCheckpoint(NamedTuple):
    """A checkpoint that was written or read."""

    location: str
    """Its folder or URI."""
    step: int


@dataclass(frozen=True)
class RungResult:
    """What a trial hears when it has reached its rung."""

    metrics: RungMetrics
    checkpoint: str | None


@dataclass(frozen=True)
class AbortReason:
    """Why a trial, or the whole sweep, is trained no further. One field is set."""

    failure: str | None = None
    """The trial's own failure."""
    pack_rejection: str | None = None
    """The pack does not fit this model; the plain executor may."""
    crowded: str | None = None
    """The memory does not hold so many at once; fewer may fit."""
    fault: str | None = None
    """The machine failed, and no trial."""
    lost: str | None = None
    """A process of the sweep's own has died."""
    damaged: tuple[str, str] | None = None
    """A checkpoint that cannot be used: where it lies, and why."""
    stopped: str | None = None
    """Why the trial ends inside its rung, which is no failure; see loss_curves.py."""


@dataclass
class Member:
    """One trial's place in a pack."""

    index: int
    lease_id: int
    """Another one each time that the trial joins: a pack tells by it that a trial has come
    anew.
    """
    pack: int
    trial: Trial
    checkpoint: str | None
    """Where to go on; brought up to date at every boundary."""
    step: int
    since: float
    """When it last became the trial's turn to say whether it goes on."""
    may_train: bool = False
    result: RungResult | AbortReason | None = None
    """None until the trial has reached its rung, or has failed."""


@dataclass(frozen=True)
class StepReport:
    """What a pack hands in between two steps, by trial."""

    snapshots: dict[int, SavedCheckpoint]
    """Of every slot."""
    reports: dict[int, RungMetrics]
    """Of the trials that have reached a rung."""
    failures: dict[int, str]
    stopped: dict[int, str] = field(default_factory=dict)
    """Of the trials that end inside their rung, why."""


class PackMembership:
    """The state of one sweep's packs. `total` trials will come, `capacity` at most are in a pack at
    once; both None when unknown.

    `clock` tells seconds; a simulation has its own.
    """

    def __init__(
        self,
        num_packs: int = 1,
        capacity: int | None = None,
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_packs = num_packs
        self.capacity = capacity
        self.total = total
        self.clock = clock
        self.by_trial: dict[int, Member] = {}
        self.away: set[int] = set()
        """Trials that have ended, or that wait for the others of their rung: nobody waits for them,
        even if they have not left yet.
        """
        self.closed = False
        self.abort_reason: AbortReason | None = None
        """Why nobody will train anything; see Coordinator.abort."""
        self._lease_ids = 0
        self._packs: list[dict[int, Member]] = [{} for _ in range(num_packs)]
        self._present: list[set[int]] = [set() for _ in range(num_packs)]
        """The members of each pack that are not away. Kept, not counted: thousands of trials ask at
        every boundary.
        """
        self._num_present = 0

    def join(self, index: int, trial: Trial, checkpoint: str | None, step: int) -> int:
        """Join a pack, again if need be; returns the lease."""
        self._lease_ids += 1
        before = self.by_trial.get(index)
        pack = (
            before.pack
            if before
            else min(range(self.num_packs), key=lambda pack_index: len(self._present[pack_index]))
        )
        self.leave(index)
        self.away.discard(index)
        self.by_trial[index] = self._packs[pack][index] = Member(
            index, self._lease_ids, pack, trial, checkpoint, step, self.clock()
        )
        self._count(index)
        return self._lease_ids

    def holds(self, index: int, lease_id: int) -> bool:
        """Whether that lease_id is still the trial's."""
        return index in self.by_trial and self.by_trial[index].lease_id == lease_id

    def let_train(self, index: int) -> None:
        """Train the trial to its next rung."""
        self.by_trial[index].may_train = True
        self.by_trial[index].result = None

    def leave(self, index: int, lease_id: int | None = None) -> None:
        """Leave; a lease that is not the present one is ignored."""
        if index in self.by_trial and lease_id in (None, self.by_trial[index].lease_id):
            pack = self.by_trial.pop(index).pack
            del self._packs[pack][index]
            self._num_present -= index in self._present[pack]
            self._present[pack].discard(index)

    def expect(self, index: int, coming: bool) -> None:
        """Say whether a trial will (still) come to be trained."""
        if coming:
            self.away.discard(index)
        else:
            self.away.add(index)
        self._count(index)

    def widen(self) -> None:
        """One more trial will come."""
        if self.total is not None:
            self.total += 1

    def _count(self, index: int) -> None:
        """Bring `_present` up to date for a trial."""
        if index in self.by_trial:
            present = self._present[self.by_trial[index].pack]
            self._num_present -= index in present
            if index in self.away:
                present.discard(index)
            else:
                present.add(index)
            self._num_present += index in present

    def num_expected(self) -> int:
        """How many trials should have joined before a pack goes on."""
        if self.total is None or self.capacity is None:
            return 0
        return min(self.num_packs * self.capacity, self.total - len(self.away))

    def everyone_joined(self) -> bool:
        """Whether nobody is still to come, to any pack."""
        return self._num_present >= self.num_expected()

    def members_ready(self, pack: int) -> bool:
        """Whether everyone in this pack knows whether to go on, and someone does."""
        members = self.members(pack)
        oldest = self.clock() - UNDECIDED_SECONDS
        return all(member.may_train or member.since < oldest for member in members) and any(
            member.may_train for member in members
        )

    def ready(self, pack: int) -> bool:
        """Whether this pack's members is complete: nobody is still to come, and everyone here knows
        whether to go on.
        """
        return self.everyone_joined() and self.members_ready(pack)

    def members(self, pack: int) -> list[Member]:
        """A pack's members, in the order of the trials. Who waits for its rung need not keep a
        slot until it leaves.
        """
        return [self._packs[pack][index] for index in sorted(self._present[pack])]

    def publish(self, boundary: StepReport, lease_ids: dict[int, int]) -> None:
        """Take a boundary's results. What belongs to a trial that has left meanwhile is dropped."""
        for index, lease_id in lease_ids.items():
            if not self.holds(index, lease_id):
                continue
            member = self.by_trial[index]
            if member.may_train:  # who owed an answer before this boundary owes it still
                member.since = self.clock()
            if index in boundary.snapshots:
                member.checkpoint, member.step = boundary.snapshots[index]
            if index in boundary.failures:
                member.may_train = False
                member.result = AbortReason(failure=boundary.failures[index])
            elif index in boundary.stopped:
                member.may_train = False
                member.result = AbortReason(stopped=boundary.stopped[index])
            elif index in boundary.reports:
                member.may_train = False
                member.result = RungResult(boundary.reports[index], member.checkpoint)
