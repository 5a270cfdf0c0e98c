"""What a user asks of the sweep while it runs: to drop a trial, or to train a changed copy of one.

The driver looks for requests every second and answers each in the journal, which is what the next
start goes by: a dropped trial stays dropped, a copy keeps its number and its settings.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from jobs.files import filesystem
from jobs.files.json_types import JsonObject
from orchestrator.config.run_numbers import is_finalist
from orchestrator.config.search_space import Point
from orchestrator.errors import InputError
from orchestrator.plan.copies import copy_point, described
from orchestrator.storage import requests

LOOK_SECONDS = 1.0
LOOK_SECONDS_STORE = 5.0
"""The same for an object store, where looking costs."""
OVER = ("finished", "stopped", "failed")


class Steering:
    """The requests that a sweep has taken."""

    def __init__(self, events: Iterable[JsonObject]) -> None:
        self.dropped: dict[int, int] = {}
        """Dropped trials, and how many rungs had closed then."""
        self.copies: dict[int, Point] = {}
        """The points of changed copies, by their numbers."""
        self.answered: set[str] = set()
        self.rungs_closed = 0
        self.fresh: set[int] = set()
        """Trials that this run of the sweep has dropped."""
        self.looked = 0.0
        self.closed = False
        """Whether training is over: whoever asks now is too late."""
        for event in events:
            if event["kind"] == "request":
                self.take(event)

    def take(self, event: JsonObject) -> None:
        """Bring everything up to date with one answer."""
        self.answered.add(event["id"])
        index, point = event.get("trial"), event.get("point")
        if event.get("state") != "accepted" or not isinstance(index, int):
            return
        if event["action"] == "drop":
            self.dropped[index] = int(event.get("rungs_closed") or 0)
        elif isinstance(point, dict):
            self.copies[index] = point

    def look(self, sweep_state: Any, at_once: bool = False) -> None:
        """Answer what is asked, unless that was looked for just now."""
        pause = (
            LOOK_SECONDS_STORE if filesystem.is_uri(sweep_state.config.storage) else LOOK_SECONDS
        )
        now = time.monotonic()
        if sweep_state.halted or (now - self.looked < pause and not at_once):
            return
        self.looked = now
        where = sweep_state.place()
        try:
            asked = requests.waiting(where)
        except OSError:  # a store that does not answer now: the request waits
            return
        for request in asked:
            if request["id"] not in self.answered:
                answer = self.answer(sweep_state, request)
                try:
                    sweep_state.journal.append("request", **answer)
                except OSError:  # a full disk is told by whoever trains; the request waits
                    self.fresh.discard(request["trial"])
                    return
                self.take(answer)
                sweep_state.screen.num_trials = sweep_state.total()
                sweep_state.screen.note(answer["text"])
            requests.remove(where, request)

    def answer(self, sweep_state: Any, request: requests.Request) -> JsonObject:
        """What is made of one request, as an event of the journal."""
        index = request["trial"]
        answer = {"id": request["id"], "action": request["action"], "trial": index}
        try:
            if self.closed:
                raise InputError("the training of this sweep is over: nothing can be changed in it")
            if request["action"] == "drop":
                return answer | self.drop(sweep_state, index)
            return answer | self.copy(sweep_state, index, request["settings"])
        except InputError as error:
            return answer | {"state": "refused", "text": str(error)}

    def drop(self, sweep_state: Any, index: int) -> JsonObject:
        """End a trial that has not ended. Raises InputError for another one."""
        if not sweep_state.belongs(index):
            raise InputError(f"there is no trial {index}: the sweep has {sweep_state.total()}")
        if index in self.dropped:
            raise InputError(f"trial {index} is dropped already")
        record = sweep_state.records.get(index)
        ended = index in sweep_state.ended or (record is not None and record.state in OVER)
        if ended and record is not None and index not in sweep_state.started - sweep_state.ended:
            raise InputError(f"trial {index} has ended: {record.state}")
        self.fresh.add(index)
        text = f"trial {index} is dropped; what it has learned until now is kept"
        return {"state": "accepted", "rungs_closed": self.rungs_closed, "text": text}

    def copy(self, sweep_state: Any, index: int, settings: Point) -> JsonObject:
        """A changed copy of a trial. Raises InputError for one that the sweep may not have."""
        points = {
            trial: record.point for trial, record in sweep_state.records.items()
        } | self.copies
        point = copy_point(sweep_state.config, points, index, settings, sweep_state.packed)
        trials = [number for number in sweep_state.records if not is_finalist(number)]
        copy_index = max([sweep_state.plan.num_trials, *trials, *self.copies]) + 1
        text = f"trial {copy_index} is a copy of trial {index} with {described(settings)}"
        return {"state": "accepted", "trial": copy_index, "of": index, "point": point, "text": text}

    def is_over(self, index: int, step: int, earlier: int) -> bool:
        """Whether a trial that reports `step` is dropped; in an earlier run it had come to the step
        `earlier`, and what rungs have counted of it counts again.
        """
        if index not in self.dropped:
            return False
        return index in self.fresh or (step >= earlier and self.rungs_closed >= self.dropped[index])
