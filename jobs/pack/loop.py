"""The pack at work: seat the trials that came, train those with credit to their next rung, hand in
what came out, again until all is over.

Free of Ray: `CoordinatorClient` is how it hears and speaks.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from jobs.config import Train
from jobs.data.trial_data import shortened
from jobs.files.checkpoints import CheckpointStore, fetched
from jobs.pack.engine import Pack
from jobs.pack.evaluation import validate
from jobs.pack.generation import text_metrics
from jobs.pack.membership import Member, StepReport


class CoordinatorClient(Protocol):
    """Between a pack's workers and the roster. Every worker calls the same methods in the same
    order and hears the same.
    """

    def company(self) -> list[Member] | None:
        """Who sits in the pack, once that is settled; None when the sweep is over or pauses."""

    def resting(self) -> bool:
        """Whether it pauses: what every slot has learned is to be kept."""
        ...

    def left(self, tickets: dict[int, int]) -> bool:
        """Whether someone has left since."""
        ...

    def hand_in(self, boundary: StepReport, tickets: dict[int, int]) -> None:
        """What came out at a step boundary."""

    def tell(self, steps: dict[int, tuple[int, dict[str, float]]]) -> None:
        """Metrics of one step, by trial; nobody waits for them."""


def next_rung(step: int, train: Train) -> int:
    """The step at which a trial that has done `step` steps is evaluated next."""
    return min((step // train.eval_every + 1) * train.eval_every, train.steps)


def serve(pack: Pack, desk: CoordinatorClient, shelf: CheckpointStore) -> None:
    """Train until the sweep is over, or pauses.

    Raises MemoryError when not even one example fits, OSError when the storage takes no checkpoint,
    Damaged for one that cannot be used.
    """
    seated: dict[int, int] = {}
    lying: dict[int, tuple[str, int]] = {}
    while (company := desk.company()) is not None:
        failures = seat(pack, company, seated, lying)
        if failures:
            desk.hand_in(StepReport({}, {}, failures), dict(seated))
            continue
        going = {
            place.index: next_rung(pack.slots[place.index].step, place.trial.train)
            for place in company
            if place.credit
        }
        if not going:
            time.sleep(0.05)
        while going and not desk.left(seated):
            unreadable = {index: reason for index in going if (reason := pack.unreadable(index))}
            if unreadable:
                desk.hand_in(StepReport({}, {}, unreadable), dict(seated))
                break
            metrics = pack.step(list(going))
            desk.tell({index: (pack.slots[index].step, own) for index, own in metrics.items()})
            failed = {index: reason for index in going if (reason := pack.failure(index))}
            due = [
                index
                for index, rung in going.items()
                if pack.slots[index].step >= rung and index not in failed
            ]
            if due or failed:
                reports = reached(pack, due, metrics)
                desk.hand_in(
                    StepReport(snapshots(pack, shelf, reports, failed, lying), reports, failed),
                    dict(seated),
                )
                break
    if desk.resting():
        desk.hand_in(StepReport(snapshots(pack, shelf, {}, {}, lying), {}, {}), dict(seated))


def seat(
    pack: Pack, company: list[Member], seated: dict[int, int], lying: dict[int, tuple[str, int]]
) -> dict[int, str]:
    """Bring the slots in line with who sits in the pack; returns why some could not be seated.

    `lying` holds, of every slot, place and step of the checkpoint that it was last written to or
    read from.
    """
    present, failures = {place.index: place for place in company}, {}
    for index in [
        index
        for index, ticket in seated.items()
        if index not in present or present[index].ticket != ticket
    ]:
        if index in pack.slots:
            pack.leave(index)
        lying.pop(index, None)
        del seated[index]
    for place in company:
        if place.index not in seated:
            checkpoint = fetched(place.checkpoint) if place.checkpoint else None
            try:
                pack.join(place.index, place.trial, checkpoint)
            except ValueError as error:
                failures[place.index] = str(error)
            if place.checkpoint and place.index not in failures:
                lying[place.index] = place.checkpoint, pack.slots[place.index].step
            seated[place.index] = place.ticket
    return failures


def reached(pack: Pack, due: list[int], metrics: Any) -> dict[int, dict[str, Any]]:
    """Evaluate who is due; their reports."""
    tallies, texts = validate(pack, due), text_metrics(pack, due)
    return {
        index: {
            "step": pack.slots[index].step,
            **metrics[index],
            **tallies[index].metrics(),
            **texts[index],
            **pack.slots[index].course.drawn(pack.slots[index].step),
            **shortened("valid", pack.corpus(pack.slots[index].trial)[2]),
        }
        for index in due
    }


def snapshots(
    pack: Pack,
    shelf: CheckpointStore,
    reports: dict[int, Any],
    failed: dict[int, str],
    lying: dict[int, tuple[str, int]],
) -> dict[int, tuple[str, int]]:
    """Take a snapshot of every slot at this one step. One that has not moved lies there already,
    with the score of its rung.
    """
    if pack.world.rank > 0:
        return {}
    for index in [index for index in pack.slots if index not in failed]:
        step = pack.slots[index].step
        if step > 0 and lying.get(index) != (shelf.at(index, step), step):
            lying[index] = (
                shelf.put(index, step, pack.slots[index].snapshot(), reports.get(index)),
                step,
            )
    return {
        index: found
        for index, found in lying.items()
        if index in pack.slots and index not in failed
    }
