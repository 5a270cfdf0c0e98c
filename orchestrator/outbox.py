"""From a sweep's journal to the tracking store, late if it must be, each event once.

The driver appends to `journal.jsonl`; nothing it does waits for the store. A thread reads the journal from a cursor that outlives the
process (`tracking.json`; `tracking.told` says which lines that were), folds events into one update per run and hands it to a `Sink`. Every
update may be sent twice without harm, so after any failure the cursor simply stays. Knows nothing of MLflow: `tracking.Store` is the sink.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.credentials import mask
from orchestrator.told import Told, digest
from orchestrator.update import KINDS, Event, Refused, Sink, Update, fold

FLUSH_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0
CHUNK_EVENTS = 20_000
CHUNK_BYTES = 8 << 20
PATIENCE = 5
"""Failures in a row after which a part that the store never takes is set aside, although the store did not clearly refuse it."""
MEASURED = ("train/", "valid/", "data/")
SWEEP = "sweep"
"""Key of the parent run among the run ids; children have their trial's index."""


class Unopened(Exception):
    """A run could not be opened. No event is guilty of that, so none is set aside for it."""


@dataclass
class State:
    """What outlives the process, next to the journal. Losing it costs time, nothing else."""

    journal: str
    """Which journal: a hash of its first line, also a tag on every run, so that runs are found again and never mixed up with those of
    someone else who runs the same sweep on the same server."""
    target: str = ""
    name: str = ""
    offset: int = 0
    """Bytes of the journal that have been dealt with."""
    runs: dict[str, str] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    """Offsets of the events that were set aside."""
    doubtful: bool = False
    """A run may have been created although the answer never came."""
    mended: bool = False
    """The journal was cut or edited: the store may hold more than it, so it is asked before it is told a metric."""

    @classmethod
    def read(cls, file: Path, journal: str) -> State:
        """The saved state, or a new one when there is none, or it is torn."""
        try:
            return cls(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            return cls(journal=journal)

    def save(self, file: Path) -> None:
        draft = file.with_name(file.name + ".draft")
        draft.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        os.replace(draft, file)


class Journal:
    """The reading side of journal.jsonl."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def identity(self) -> str | None:
        """Hash of the first line; None before there is one."""
        first = next(self._lines(0), None)
        return None if first is None else hashlib.sha256(first).hexdigest()[:16]

    def read(self, offset: int, skip: set[bytes] | None = None) -> tuple[list[tuple[int, Event]], int, list[bytes]]:
        """The next events with their offsets, the offset behind them, and the digests of all lines. A torn line is no event: its writer
        died writing it. Lines whose digest is in `skip` are left out."""
        events, start, digests = [], offset, []
        for line in self._lines(offset):
            digests.append(digest(line))
            if skip and digests[-1] in skip:
                offset += len(line)
                continue
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                events.append((offset, event))
            offset += len(line)
            if len(events) >= CHUNK_EVENTS or offset - start > CHUNK_BYTES:
                break
        return events, offset, digests

    def digests(self, end: int) -> list[bytes] | None:
        """The digests of all lines before an offset; None when no line begins there."""
        found, offset = [], 0
        for line in self._lines(0):
            if offset >= end:
                break
            found.append(digest(line))
            offset += len(line)
        return found if offset == end else None

    def begins_line(self, offset: int) -> bool:
        """Whether a line can begin at an offset."""
        if offset == 0:
            return True
        with self.file.open("rb") as stream:
            stream.seek(offset - 1)
            return stream.read(1) == b"\n"

    def holds(self, digests: set[bytes]) -> bool:
        """Whether any of its lines is one of these."""
        return any(digest(line) in digests for line in self._lines(0))

    def count(self, offset: int) -> int:
        """Complete lines from `offset` on."""
        return sum(1 for _ in self._lines(offset))

    def _lines(self, offset: int) -> Iterator[bytes]:
        if not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                yield line


class Writer:
    """The thread that carries a sweep's journal to the store.

    `connect` is called in the thread and again after each time it fails. `error` is what went wrong last, None while all is well.
    """

    def __init__(self, connect: Callable[[], Sink], folder: Path) -> None:
        self._connect = connect
        self._journal = Journal(folder / "journal.jsonl")
        self._file = folder / "tracking.json"
        self._told = Told(folder / "tracking.told")
        self._num_told = 0
        self._skip: set[bytes] = set()
        """Digests of the lines that the store was told before the journal was cut or edited."""
        self._known: dict[str, dict[str, dict[int, list[str]]]] = {}
        """What the store holds of a run's metrics, where it had to be asked: run -> name -> step -> values."""
        self._seen: str | None = None
        """The journal's identity when it was looked at last."""
        self.aside = folder / "tracking-refused.jsonl"
        """Where events lie that the store will never take, with the reasons."""
        self._sink: Sink
        self._connected = False
        self._state: State | None = None
        self._failures = 0
        self._wake, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
        self.error: str | None = None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Write now rather than at the next flush. Does not shorten the pause after a failure."""
        self._wake.set()

    def close(self, timeout_seconds: float) -> int:
        """Write what is left, for at most `timeout_seconds`. Returns how many events are not yet written; the next start writes them."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        self._abandoned.set()
        state = self._state or State.read(self._file, self._journal.identity() or "")
        return self._journal.count(state.offset)

    def run_id(self, trial: int | None) -> str | None:
        """Id of a trial's run, of the sweep's run for None; None before it exists."""
        return None if self._state is None else self._state.runs.get(SWEEP if trial is None else str(trial))

    @property
    def num_refused(self) -> int:
        """Events that the store will never take."""
        return 0 if self._state is None else len(self._state.refused)

    def _loop(self) -> None:
        while not self._abandoned.is_set():
            last = self._closing.is_set()  # before the look: what was written until then is what is left
            try:
                more = self._step()
                self._failures, self.error = 0, None
            except Exception as error:  # noqa: BLE001  # whatever a store can raise, training goes on and the journal keeps the events
                self._failures, self.error, more = self._failures + 1, mask(str(error) or repr(error)), False
            if last and not more and not self._failures:
                return
            if not more:
                self._rest()

    def _rest(self) -> None:
        if self._failures:
            pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
            # Once closing, someone waits: try every second until the time is up.
            self._abandoned.wait(1.0) if self._closing.is_set() else self._closing.wait(pause)
        else:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()

    def _step(self) -> bool:
        """Deal with the next chunk of the journal. False when there is none."""
        if not self._connected:
            self._sink, self._connected = self._connect(), True
        identity = self._journal.identity()
        if identity is None:
            return False
        if self._state is None or self._seen != identity or not self._journal.begins_line(self._state.offset):
            self._state = self._recall(self._sink, identity)
            self._seen = identity
        events, offset, digests = self._journal.read(self._state.offset, self._skip)
        if offset == self._state.offset:
            return not self._journal.begins_line(offset)  # cut since it was looked at: look again
        self._deliver(self._state, [(at, event) for at, event in events if at not in self._state.refused])
        if not self._abandoned.is_set():
            self._told.add(self._num_told, digests)
            self._num_told += len(digests)
            self._state.offset = offset
            self._state.save(self._file)
        return True

    def _recall(self, sink: Sink, identity: str) -> State:
        """Where an earlier start has ended, if the journal still says up to there what the store was told."""
        state, told = State.read(self._file, identity), self._told.read()
        self._skip, self._known, self._num_told = set(), {}, 0
        parent = state.runs.get(SWEEP)
        # Another store, or a store that was wiped: the journal is the truth, so tell it everything from the start.
        if state.target != sink.target or parent is None or not sink.has_run(parent):
            self._told.keep([])
            return State(journal=identity, target=sink.target)
        now = self._journal.digests(state.offset)
        if state.journal == identity and now is not None and told[: len(now)] == now:
            self._told.keep(now)
            self._num_told = len(now)
            return state
        if state.journal != identity and not self._journal.holds(set(told)):  # another journal altogether
            self._told.keep([])
            return State(journal=identity, target=sink.target)
        # Cut or edited: every line that the store has not been told is new, wherever it stands.
        self._skip = set(told)
        self._told.keep([])
        self.aside.unlink(missing_ok=True)
        return State(journal=state.journal, target=state.target, name=state.name, runs=state.runs, doubtful=state.doubtful, mended=True)

    def _deliver(self, state: State, events: list[tuple[int, Event]]) -> None:
        by_run: dict[str, list[tuple[int, Event]]] = {SWEEP: []}
        for at, event in events:
            if event.get("kind") in KINDS:
                trial = event.get("trial")
                by_run.setdefault(SWEEP if trial is None else str(trial), []).append((at, event))
                state.name = state.name or str(event.get("name") or "")
        for key, own in by_run.items():
            if own and not self._abandoned.is_set():
                self._write(state, key, own)
        if state.doubtful and any(event.get("kind") == "sweep_end" for _, event in events):
            self._sink.drop_strays({"orchestrator.journal": state.journal}, set(state.runs.values()))
            state.doubtful = False

    def _write(self, state: State, key: str, events: list[tuple[int, Event]]) -> None:
        """Write one run's events. When they are refused, halve them until the guilty one stands alone, and set that aside."""
        try:
            update, run_id = fold([event for _, event in events]), self._run(state, key, int(events[0][1]["t"]))
            if state.mended:
                update.metrics = self._lacking(run_id, update)
            self._sink.write(run_id, update)
        except Unopened:
            raise
        except Exception as error:
            if not (isinstance(error, Refused) or (self._failures >= PATIENCE and self._sink.answers())):
                raise
            if len(events) == 1:
                self._set_aside(state, events[0], error)
                return
            middle = len(events) // 2
            self._write(state, key, events[:middle])
            self._write(state, key, events[middle:])

    def _lacking(self, run_id: str, update: Update) -> list[tuple[str, float, int, int]]:
        """The metrics of an update that the run does not hold. Of what is measured at a step it holds one value, whatever a second one
        would be; of what is judged, such as a test score, another value is news."""
        known = self._known.setdefault(run_id, {})
        missing = {key for key, *_ in update.metrics} - known.keys()
        if missing:
            known |= {key: {} for key in missing} | self._sink.told(run_id, missing)
        lacking = []
        for key, value, moment, step in update.metrics:
            values = known[key].get(step, [])
            if (values and key.startswith(MEASURED)) or repr(value) in values:
                continue
            lacking.append((key, value, moment, step))
        return lacking

    def _run(self, state: State, key: str, started: int) -> str:
        if key not in state.runs:
            state.runs[key] = self._open(state, key, started)
            state.save(self._file)
        return state.runs[key]

    def _open(self, state: State, key: str, started: int) -> str:
        sweep = state.name or self._file.parent.name
        tags = {"orchestrator.sweep": sweep, "orchestrator.journal": state.journal, "orchestrator.trial": "" if key == SWEEP else key}
        if key != SWEEP:
            tags["mlflow.parentRunId"] = self._run(state, SWEEP, started)
        try:
            return self._sink.open_run(sweep if key == SWEEP else f"trial-{key:0>3}", tags, started)
        except Exception as error:
            # The request may have been carried out although no answer came: look for a second run when the sweep ends.
            state.doubtful = True
            state.save(self._file)
            raise Unopened(str(error)) from error

    def _set_aside(self, state: State, item: tuple[int, Event], error: Exception) -> None:
        at, event = item
        with self.aside.open("a") as stream:
            stream.write(json.dumps({"reason": mask(str(error)), "offset": at, "event": event}) + "\n")
        state.refused.append(at)
        state.save(self._file)
