"""Who trains and what they said: a named actor between the training processes, Tune's trials and the driver.

Workers post to it without waiting; the driver drains it. It remembers where workers sit, so that the driver can free their resources, and
whether they have run out of memory, so that the next attempt takes smaller portions. For packs it keeps the seats (seats.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray

from jobs.config import Trial
from jobs.seats import Boundary, Seat, Seats

NAMESPACE = "orchestrator"
COMPANY_SECONDS = 120.0
"""How long a pack waits for trials that should come; then it goes on with those that are there."""


class Roster:
    """The actor's state. Everything is keyed by the trial's index; a pack's workers by minus one minus its number."""

    def __init__(
        self,
        num_packs: int = 1,
        capacity: int | None = None,
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._posts: deque[dict[str, Any]] = deque(maxlen=100_000)
        self._groups: dict[int, str] = {}
        self._shrunk: dict[int, int] = {}
        self._failures: dict[int, str] = {}
        self._seats = Seats(num_packs, capacity, total, clock)
        self._changed = asyncio.Condition()

    async def post(self, trial: int, kind: str, fields: dict[str, Any]) -> None:
        """Leave a message for the driver."""
        self._posts.append({"t": int(time.time() * 1000), "kind": kind, "trial": trial, **fields})

    async def drain(self) -> list[dict[str, Any]]:
        """All messages since the last call, oldest first."""
        taken = list(self._posts)
        self._posts.clear()
        return taken

    async def sit(self, trial: int, group: str) -> int:
        """Record the placement group (as hexadecimal id) of workers; returns how often they have run out of memory."""
        self._groups[trial] = group
        return self._shrunk.get(trial, 0)

    async def shrink(self, trial: int) -> None:
        """Record that a worker was killed for lack of memory."""
        self._shrunk[trial] = self._shrunk.get(trial, 0) + 1

    async def fail(self, trial: int, reason: str) -> None:
        """Record why a trial failed."""
        self._failures[trial] = reason

    async def failure(self, trial: int) -> str | None:
        """Why a trial failed, if it could say so."""
        return self._failures.get(trial)

    async def placed(self) -> list[int]:
        """Whose workers have been placed and started."""
        return list(self._groups)

    async def leave(self, trial: int) -> str | None:
        """Forget the placement group and return it."""
        return self._groups.pop(trial, None)

    async def take_seat(self, index: int, trial: Trial, checkpoint: str | None, step: int) -> int:
        """A trial sits down in a pack, or does so again; returns its ticket."""
        return await self._change(lambda seats: seats.take(index, trial, checkpoint, step))

    async def train(self, index: int, ticket: int) -> dict[str, Any]:
        """Have the trial trained to its next rung and wait for what came out.

        That is {"metrics", "checkpoint"}, {"failure"}, or {"aside"} when the pack turns out not to fit this model.
        """
        await self._change(lambda seats: seats.credit(index) if seats.holds(index, ticket) else None)
        async with self._changed:
            await self._changed.wait_for(lambda: self._answer(index, ticket) is not None)
            return self._answer(index, ticket) or {}

    def _answer(self, index: int, ticket: int) -> dict[str, Any] | None:
        if self._seats.verdict is not None or not self._seats.holds(index, ticket):
            return self._seats.verdict or {"failure": "its seat was given away"}
        return self._seats.seats[index].result

    async def stand_up(self, index: int, ticket: int | None = None) -> None:
        """A trial leaves its pack."""
        await self._change(lambda seats: seats.leave(index, ticket))

    async def expect(self, indices: list[int], coming: bool) -> None:
        """The driver knows that these trials will come to be trained again, or will not."""
        for index in indices:
            await self._change(lambda seats, index=index: seats.expect(index, coming))

    async def ended(self, index: int) -> None:
        """The driver knows that a trial has ended, however its process fared."""
        await self._change(lambda seats: (seats.leave(index), seats.expect(index, False)))

    async def company(self, pack: int) -> list[Seat] | None:
        """Wait until a pack's company is complete and return it; None when the sweep is over."""
        deadline = self._clock() + COMPANY_SECONDS
        async with self._changed:
            while not self._seats.closed and not self._seats.ready(pack) and self._clock() < deadline:
                with contextlib.suppress(asyncio.TimeoutError):  # time alone can settle it
                    await asyncio.wait_for(self._changed.wait(), 1.0)
            return None if self._seats.closed else self._seats.company(pack)

    async def tickets(self, pack: int) -> dict[int, int]:
        """Who sits in a pack now, by ticket."""
        return {seat.index: seat.ticket for seat in self._seats.company(pack)}

    async def hand_in(self, boundary: Boundary, tickets: dict[int, int]) -> None:
        """A pack's results at a step boundary."""
        await self._change(lambda seats: seats.hand_in(boundary, tickets))

    async def give_up(self, verdict: dict[str, Any]) -> None:
        """No pack will train: {"failure": reason}, or {"aside": reason} when the plain executor may."""
        await self._change(lambda seats: setattr(seats, "verdict", verdict))

    async def verdict(self) -> dict[str, Any] | None:
        """Why no pack trains, if so."""
        return self._seats.verdict

    async def is_closed(self) -> bool:
        """Whether the sweep is over."""
        return self._seats.closed

    async def close(self) -> None:
        """The sweep is over: packs may go home."""
        await self._change(lambda seats: setattr(seats, "closed", True))

    async def _change(self, what: Callable[[Seats], Any]) -> Any:
        """Change the seats and wake whoever waits."""
        async with self._changed:
            answer = what(self._seats)
            self._changed.notify_all()
            return answer


def name_of(sweep: str) -> str:
    """The actor's name."""
    return f"roster-{sweep}"


def open_roster(sweep: str, num_packs: int = 1, capacity: int | None = None, total: int | None = None) -> Any:
    """Start the actor; it lives as long as the driver keeps the handle."""
    made = ray.remote(Roster).options(name=name_of(sweep), namespace=NAMESPACE, num_cpus=0, max_concurrency=1000)
    return made.remote(num_packs, capacity, total)


def find_roster(sweep: str) -> Any:
    """The running actor, from any process of the cluster."""
    return ray.get_actor(name_of(sweep), namespace=NAMESPACE)


def free(group: str | None) -> None:
    """Remove a placement group that its trial left behind; its workers die with it. Harmless when it is already gone.

    Ray Train's own cleaner does this too, but only where the dashboard runs and only one Ray runs on the host.
    """
    if group is None:
        return
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(ValueError, RuntimeError):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
