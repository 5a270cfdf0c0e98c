"""From a sweep's journal to the tracking store, late if it must be, each event once.

The driver appends to `journal.jsonl`; nothing it does waits for the store. A thread reads the
journal from a cursor that outlives the process (`tracking.json`; `tracking.told` says which lines
that were), folds events into one update per run and hands it to a `TrackingSink`. Every update may
be sent twice without harm, so after any failure the cursor simply stays. Knows nothing of MLflow:
`tracking.Store` is the sink.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.files.sealed_json import checksum_of
from orchestrator.config.credentials import mask
from orchestrator.config.run_numbers import run_name
from orchestrator.storage.json_files import write_json
from orchestrator.tracking.delivered_lines import Told
from orchestrator.tracking.events import (
    KINDS,
    Event,
    Refused,
    RunUpdate,
    TrackingSink,
    merge_events,
)
from orchestrator.tracking.journal_reader import JournalReader
from orchestrator.tracking.store_errors import is_of_the_machine

FLUSH_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0
PATIENCE = 5
"""Failures in a row after which a part that the store never takes is set aside, although the store
did not clearly refuse it.
"""
MEASURED = ("train/", "valid/", "data/", "system/")
SWEEP = "sweep"
"""Key of the parent run among the run ids; children have their trial's index."""


class Unopened(Exception):
    """A run could not be opened. No event is guilty of that, so none is set aside for it."""


@dataclass
class OutboxState:
    """What outlives the process, next to the journal. Losing it costs time, nothing else."""

    journal: str
    """Which journal: a hash of its first line, also a tag on every run, so that runs are found
    again and never mixed up with those of someone else who runs the same sweep on the same server.
    """
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
    """The journal was cut or edited: the store may hold more than it, so it is asked before it is
    told a metric.
    """

    @classmethod
    def read(cls, file: Path, journal: str) -> OutboxState:
        """The saved state, or a new one when there is none, or a disk has changed it: then the
        store may hold more than it says.
        """
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            checksum = fields.pop("checksum", None)
            if checksum not in (None, checksum_of(fields)):
                return cls(journal=journal, mended=True)
            return cls(**fields)
        except OSError:
            return cls(journal=journal)
        except (ValueError, TypeError, AttributeError):
            return cls(journal=journal, mended=True)

    def save(self, file: Path) -> None:
        fields = dataclasses.asdict(self)
        write_json(file, fields | {"checksum": checksum_of(fields)})


class OutboxWorker:
    """The thread that carries a sweep's journal to the store.

    `connect` is called in the thread and again after each time it fails. `error` is what went
    wrong last, None while all is well.
    """

    def __init__(self, connect: Callable[[], TrackingSink], folder: Path) -> None:
        self._connect = connect
        self._journal = JournalReader(folder / "journal.jsonl")
        self._file = folder / "tracking.json"
        self._told = Told(folder / "tracking.told")
        self._num_told = 0
        self._skip: set[bytes] = set()
        """Digests of the lines that the store was told before the journal was cut or edited."""
        self._known: dict[str, dict[str, dict[int, list[str]]]] = {}
        """What the store holds of a run's metrics, where it had to be asked: run -> name -> step ->
        values.
        """
        self._seen: str | None = None
        """The journal's identity when it was looked at last."""
        self.refused_file = folder / "tracking-refused.jsonl"
        """Where events lie that the store will never take, with the reasons."""
        self._sink: TrackingSink
        self._connected = False
        self._state: OutboxState | None = None
        self._failures = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
        self.error: str | None = None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Write now rather than at the next flush. Does not shorten the pause after a failure."""
        self._wake.set()

    def close(self, timeout_seconds: float) -> int:
        """Write what is left, for at most `timeout_seconds`. Returns how many events are not yet
        written; the next start writes them.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        self._abandoned.set()
        state = self._state or OutboxState.read(self._file, self._journal.identity() or "")
        return self._journal.count(state.offset)

    def run_id(self, trial: int | None) -> str | None:
        """Id of a trial's run, of the sweep's run for None; None before it exists."""
        return (
            None
            if self._state is None
            else self._state.runs.get(SWEEP if trial is None else str(trial))
        )

    @property
    def num_refused(self) -> int:
        """Events that the store will never take."""
        return 0 if self._state is None else len(self._state.refused)

    def _loop(self) -> None:
        while not self._abandoned.is_set():
            last = (
                self._closing.is_set()
            )  # before the look: what was written until then is what is left
            try:
                more = self._step()
                self._failures = 0
                self.error = None
            except Exception as error:  # noqa: BLE001  # whatever a store can raise, training goes on and the journal keeps the events
                self._failures = self._failures + 1
                self.error = mask(str(error) or repr(error))
                more = False
            if last and not more and not self._failures:
                return
            if not more:
                self._rest()

    def _rest(self) -> None:
        if self._failures:
            pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
            # Once closing, someone waits: try every second until the time is up.
            if self._closing.is_set():
                self._abandoned.wait(1.0)
            else:
                self._closing.wait(pause)
        else:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()

    def _step(self) -> bool:
        """Deal with the next chunk of the journal. False when there is none."""
        if not self._connected:
            self._sink = self._connect()
            self._connected = True
        identity = self._journal.identity()
        if identity is None:
            return False
        if (
            self._state is None
            or self._seen != identity
            or not self._journal.begins_line(self._state.offset)
        ):
            self._state = self._recall(self._sink, identity)
            self._seen = identity
        events, offset, digests = self._journal.read(self._state.offset, self._skip)
        if offset == self._state.offset:
            return not self._journal.begins_line(offset)  # cut since it was looked at: look again
        self._deliver(
            self._state, [(at, event) for at, event in events if at not in self._state.refused]
        )
        if not self._abandoned.is_set():
            self._told.add(self._num_told, digests)
            self._num_told += len(digests)
            self._state.offset = offset
            self._state.save(self._file)
        return True

    def _recall(self, sink: TrackingSink, identity: str) -> OutboxState:
        """Where an earlier start has ended, if the journal still says up to there what the store
        was told.
        """
        state = OutboxState.read(self._file, identity)
        told_digests = self._told.read()
        self._skip = set()
        self._known = {}
        self._num_told = 0
        parent = state.runs.get(SWEEP)
        # Another store, or a store that was wiped: the journal is the truth, so tell it everything
        # from the start.
        if state.target != sink.target or parent is None or not sink.has_run(parent):
            self._told.keep([])
            return OutboxState(journal=identity, target=sink.target, mended=state.mended)
        now = self._journal.digests(state.offset)
        if state.journal == identity and now is not None and told_digests[: len(now)] == now:
            self._told.keep(now)
            self._num_told = len(now)
            return state
        if state.journal != identity and not self._journal.holds(
            set(told_digests)
        ):  # another journal altogether
            self._told.keep([])
            return OutboxState(journal=identity, target=sink.target)
        # Cut or edited: every line that the store has not been told is new, wherever it stands.
        self._skip = set(told_digests)
        self._told.keep([])
        self.refused_file.unlink(missing_ok=True)
        return OutboxState(
            journal=state.journal,
            target=state.target,
            name=state.name,
            runs=state.runs,
            doubtful=state.doubtful,
            mended=True,
        )

    def _deliver(self, state: OutboxState, events: list[tuple[int, Event]]) -> None:
        by_run: dict[str, list[tuple[int, Event]]] = {SWEEP: []}
        for at, event in events:
            if event.get("kind") in KINDS:
                trial = event.get("trial")
                by_run.setdefault(SWEEP if trial is None else str(trial), []).append((at, event))
                state.name = state.name or str(event.get("name") or "")
        for key, run_events in by_run.items():
            if run_events and not self._abandoned.is_set():
                self._write(state, key, run_events)
        if state.doubtful and any(event.get("kind") == "sweep_end" for _, event in events):
            self._sink.drop_strays(
                {"orchestrator.storage.journal": state.journal}, set(state.runs.values())
            )
            state.doubtful = False

    def _write(self, state: OutboxState, key: str, events: list[tuple[int, Event]]) -> None:
        """Write one run's events. When they are refused, halve them until the guilty one stands
        alone, and set that aside.
        """
        try:
            update = merge_events([event for _, event in events])
            run_id = self._run(state, key, int(events[0][1]["t"]))
            update.metrics = self._lacking(run_id, update, measured_too=state.mended)
            self._sink.write(run_id, update)
            self._remember(run_id, update)
        except Unopened:
            raise
        except Exception as error:
            if is_of_the_machine(str(error)):
                raise
            # A store that is read for a while, as while its database fails over, refuses nothing.
            if not isinstance(error, Refused) and (
                self._failures < PATIENCE or not self._sink.answers(state.runs.get(key))
            ):
                raise
            if len(events) == 1:
                self._set_aside(state, events[0], error)
                return
            middle = len(events) // 2
            self._write(state, key, events[:middle])
            self._write(state, key, events[middle:])

    def _lacking(
        self, run_id: str, update: RunUpdate, measured_too: bool
    ) -> list[tuple[str, float, int, int]]:
        """The metrics of an update that the run does not hold. Of what is judged, such as a test
        score, the same value again says nothing (a command that was ended while it judged is
        followed by one that judges again) and another value is news. Of what is measured at a step
        the run holds one value, whatever a second one would be; that is looked at when asked for.
        """
        looked_at = {
            key for key, *_ in update.metrics if measured_too or not key.startswith(MEASURED)
        }
        values_by_step = self._known.setdefault(run_id, {})
        missing = looked_at - values_by_step.keys()
        if missing:
            values_by_step |= {key: {} for key in missing} | self._sink.told(run_id, missing)
        lacking = []
        for key, value, moment, step in update.metrics:
            if key in looked_at:
                values = values_by_step[key].setdefault(step, [])
                if (values and key.startswith(MEASURED)) or repr(value) in values:
                    continue
            lacking.append((key, value, moment, step))
        return lacking

    def _remember(self, run_id: str, update: RunUpdate) -> None:
        """Note what a run holds now, of the metrics that are looked at."""
        values_by_step = self._known[run_id]
        for key, value, _, step in update.metrics:
            if key in values_by_step:
                values_by_step[key].setdefault(step, []).append(repr(value))

    def _run(self, state: OutboxState, key: str, started: int) -> str:
        if key not in state.runs:
            state.runs[key] = self._open(state, key, started)
            state.save(self._file)
        return state.runs[key]

    def _open(self, state: OutboxState, key: str, started: int) -> str:
        sweep = state.name or self._file.parent.name
        tags = {
            "orchestrator.sweep.runner": sweep,
            "orchestrator.storage.journal": state.journal,
            "orchestrator.trial": "" if key == SWEEP else key,
        }
        if key != SWEEP:
            tags["mlflow.parentRunId"] = self._run(state, SWEEP, started)
        try:
            return self._sink.open_run(sweep if key == SWEEP else run_name(int(key)), tags, started)
        except Exception as error:
            # The request may have been carried out although no answer came: look for a second run
            # when the sweep ends.
            state.doubtful = True
            state.save(self._file)
            raise Unopened(str(error)) from error

    def _set_aside(self, state: OutboxState, item: tuple[int, Event], error: Exception) -> None:
        at, event = item
        with self.refused_file.open("a") as stream:
            stream.write(
                json.dumps({"reason": mask(str(error)), "offset": at, "event": event}) + "\n"
            )
        state.refused.append(at)
        state.save(self._file)
