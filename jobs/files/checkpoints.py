"""Where checkpoints lie: trial-NNN/step-NNNNNN in a folder or below a URI, each sealed with
checksums, and which of them are kept.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.files import filesystem, manifest
from jobs.files.json_types import JsonObject
from jobs.files.manifest import Damaged, Snapshot
from jobs.files.spare_checkpoints import REPORT, remove_spare, steps_of
from jobs.files.storage_faults import FULL, Refused, patiently, size, told

EARLIER = "reports.json"
MOST_EARLIER = 100
"""Rungs before a checkpoint whose reports it carries: more are never on their way at once."""
KEPT = 3
"""Checkpoints of a trial at most: the newest, the one before it, which is there when the newest
turns out damaged, and the best.
"""

Score = float | None


class CheckpointStore:
    """The checkpoints of one sweep, as one process writes them. `place` is a folder or a URI."""

    def __init__(
        self,
        location: str,
        metric: str,
        maximise: bool,
        say: Callable[[str], None] = lambda text: None,
        num_trials: int = 1,
    ) -> None:
        self.place = location
        self.metric = metric
        self.maximise = maximise
        self.say = say
        self.num_trials = num_trials
        self.scores: dict[int, dict[int, Score]] = {}
        """Trial -> step -> score, of the checkpoints that are there."""

    def put(
        self,
        index: int,
        step: int,
        save: Snapshot,
        report: JsonObject | None = None,
        earlier: Sequence[JsonObject] = (),
    ) -> str:
        """Write a checkpoint, its report if it was taken at a rung, and those of `earlier` rungs,
        which may still be on their way; returns its place.

        Raises Refused, after some attempts, when the storage does not take it.
        """
        location = self.at(index, step)
        try:
            patiently(lambda: self.write_with_room(location, save, report, earlier), self.say)
        except OSError as error:
            raise Refused(
                error.errno, told(error, self.place, save.num_bytes, KEPT * self.num_trials)
            ) from error
        scores = self.scores.get(index) or self.load(index)
        scores[step] = self.score(report)
        self.tidy(index, step)
        return location

    def write_with_room(
        self,
        location: str,
        save: Snapshot,
        report: JsonObject | None,
        earlier: Sequence[JsonObject],
    ) -> None:
        """One attempt; where the disk is full, another one without the checkpoints that nobody goes
        on from.
        """
        try:
            self.write(location, save, report, earlier)
        except OSError as error:
            if error.errno not in FULL or filesystem.is_uri(self.place):
                raise
            count, freed = remove_spare(Path(self.place), self.score)
            if not count:
                raise
            self.say(
                f"storage {self.place} {FULL[error.errno]}: {count} checkpoints that can no longer "
                f"win are removed ({size(freed)}); goes on"
            )
            self.scores.clear()
            self.write(location, save, report, earlier)

    def write(
        self,
        location: str,
        save: Snapshot,
        report: JsonObject | None,
        earlier: Sequence[JsonObject],
    ) -> None:
        """One attempt: a draft beside its place, or in this machine's folder for temporary files,
        sealed and then put there whole.
        """
        remote = filesystem.is_uri(self.place)
        home = tempfile.mkdtemp(prefix="checkpoint-") if remote else os.path.dirname(location)
        if not remote:
            Path(self.place).parent.stat()  # a storage that is gone is not made anew
            Path(home).mkdir(parents=True, exist_ok=True)
        draft = Path(home) / f"draft-{os.path.basename(location)}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            if shutil.disk_usage(home).free < save.num_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), home)
            draft.mkdir()
            write_out(draft, save)
            if report is not None:
                (draft / REPORT).write_text(json.dumps(report), encoding="utf-8")
            if earlier:
                text = json.dumps(list(earlier[-MOST_EARLIER:]))
                (draft / EARLIER).write_text(text, encoding="utf-8")
            manifest.seal(draft)
            if remote:
                filesystem.remove(location)
                filesystem.put(draft, location)
            else:
                shutil.rmtree(location, ignore_errors=True)
                draft.rename(location)
                manifest.flush_folder(Path(home))
        finally:
            shutil.rmtree(home if remote else draft, ignore_errors=True)

    def at(self, index: int, step: int) -> str:
        """Where a trial's checkpoint of a step lies."""
        return filesystem.join(self.home(index), name_of(step))

    def home(self, index: int) -> str:
        """Where all checkpoints of a trial lie."""
        return filesystem.join(self.place, f"trial-{index:03d}")

    def steps(self, index: int) -> list[int]:
        """The steps of which there are checkpoints, whole or not, from the first one. Raises
        OSError.
        """
        return steps_in(self.home(index))

    def load(self, index: int) -> dict[int, Score]:
        """What lies there of a trial, of this process or another one."""
        scores: dict[int, Score] = {}
        for step in patiently(lambda: self.steps(index), self.say):
            try:
                scores[step] = self.score(report_in(self.at(index, step)))
            except (OSError, ValueError, AttributeError):
                scores[step] = None  # none, or one that cannot be read
        self.scores[index] = scores
        return scores

    def tidy(self, index: int, newest: int) -> None:
        """Delete what is neither the newest, nor the one before it, nor the best."""
        scores = self.scores[index]
        earlier = [(score is not None, step) for step, score in scores.items() if step < newest]
        before = max(earlier, default=(False, newest))[
            1
        ]  # rather one of a rung: it is what the sweep's journal goes on from
        best = max(
            (score, step)
            for step, score in [*scores.items(), (newest, -float("inf"))]
            if score is not None
        )[1]
        for step in [step for step in scores if step not in (newest, before, best)]:
            filesystem.remove(self.at(index, step))
            del scores[step]

    def score(self, report: JsonObject | None) -> Score:
        """The metric of a checkpoint, higher being better; None without one."""
        value = None if report is None else report.get(self.metric)
        if value is None or value != value:
            return None
        return value if self.maximise else -value

    def newest(self, index: int) -> tuple[int, Path] | None:
        """Step and local folder of a trial's newest whole checkpoint, None when there is none.
        Those that are damaged are named.
        """
        steps = patiently(lambda: self.steps(index), self.say)
        damaged = []
        for step in [*reversed(steps), 0]:
            try:
                newest = (step, fetched(self.at(index, step))) if step else None
            except Damaged as error:
                damaged.append(error)
                continue
            for error in damaged:
                self.say(f"{error}; goes on from {f'step {step}' if step else 'the start'}")
            return newest
        return None


def write_out(draft: Path, save: Snapshot) -> None:
    """Write a snapshot. What libraries say of a full disk in their own words is said as an
    OSError.
    """
    try:
        save(draft)
    except OSError:
        raise
    except Exception as error:
        match = re.search(r"os error (\d+)", str(error)) or re.search(
            r"\[Errno (\d+)\]", str(error)
        )
        if type(error).__name__ != "SafetensorError" or match is None:
            raise
        error_number = int(match[1])
        raise OSError(error_number, os.strerror(error_number), str(draft)) from error


def name_of(step: int) -> str:
    """What the folder of a checkpoint is called."""
    return f"step-{step:06d}"


def checkpoint_of(location: str, step: int) -> str | None:
    """Where the same trial's checkpoint of another step lies; None where it is not kept any
    more.
    """
    home = location.rpartition("/")[0]
    return filesystem.join(home, name_of(step)) if step in steps_in(home) else None


def steps_in(home: str) -> list[int]:
    """The steps of the checkpoints in a trial's place."""
    if filesystem.is_uri(home):
        system, path = filesystem.opened(home)
        names = {
            os.path.relpath(info.path, path).split("/")[0]
            for info in filesystem.listing(system, path)
        }
    else:
        try:
            names = set(os.listdir(home))
        except FileNotFoundError:
            names = set()
    return steps_of(names)


def read_text(location: str) -> str:
    """A small file's text. Raises OSError."""
    if not filesystem.is_uri(location):
        return Path(location).read_text(encoding="utf-8")
    system, path = filesystem.opened(location)
    return filesystem.read(system, path).decode()


def fetched(location: str) -> Path:
    """A checkpoint's local folder, checked. Raises Damaged, or OSError when it cannot be told
    now.
    """
    if not filesystem.is_uri(location):
        sweep = Path(location).parent.parent.parent
        sweep.stat()  # a storage that is gone may come back: nothing in it is damaged
        patiently(lambda: manifest.check(Path(location)))
        return Path(location)
    local = fetch(location)
    try:
        manifest.check(local, location)
    except Damaged:
        shutil.rmtree(local, ignore_errors=True)  # it may be this machine's copy alone
        local = fetch(location)
        manifest.check(local, location)
    return local


def fetch(location: str) -> Path:
    """A copy of a URI's folder on this machine. Raises Damaged when nothing is there."""

    def attempt() -> Path:
        try:
            return Path(filesystem.get(location))
        except FileNotFoundError as error:
            raise Damaged(location, "it is gone") from error

    return patiently(attempt)


def report_in(location: str) -> JsonObject | None:
    """What a trial has reported when a checkpoint was taken; None when that was at no rung."""
    try:
        return json.loads(read_text(filesystem.join(location, REPORT)))
    except FileNotFoundError:
        return None


def reports_in(location: str) -> list[JsonObject]:
    """What a trial has reported up to a checkpoint, as far as that carries it, the first rung
    first.
    """
    try:
        reports: list[JsonObject] = json.loads(read_text(filesystem.join(location, EARLIER)))
    except FileNotFoundError:
        reports = []
    report = report_in(location)
    return reports if report is None else [*reports, report]


def why_unreadable(location: str) -> str | None:
    """Why a checkpoint cannot be used, if so. Raises OSError when that cannot be told now."""
    try:
        fetched(location)
    except Damaged as error:
        return error.why
    return None
