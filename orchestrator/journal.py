"""What has happened in a sweep, on disk: one folder per sweep, one line per event.

The journal is the truth that everything else is derived from: the tracking store, the resumption of a sweep, and its result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jobs import fetch, store
from orchestrator import credentials, lifeline
from orchestrator.errors import InputError
from orchestrator.lock import Lock, is_held
from orchestrator.space import Point


@dataclass
class Record:
    """What is known of one trial."""

    index: int
    point: Point = field(default_factory=dict)
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step -> metrics at that rung."""
    state: str = "running"
    """running, finished, stopped, failed or interrupted."""
    error: str | None = None
    checkpoints: dict[int, str] = field(default_factory=dict)
    """Step -> folder of the checkpoint taken at that rung. An old one may be gone from disk."""

    def best(self, metric: str, maximise: bool) -> tuple[int, float] | None:
        """Step and value of the best report of a metric; the later one of two equals, whose checkpoint Ray Train keeps."""
        values = [
            (step, report[metric])
            for step, report in sorted(self.reports.items(), reverse=True)
            if metric in report and report[metric] == report[metric]
        ]
        return max(values, key=lambda item: item[1] if maximise else -item[1], default=None)


NEEDED: dict[str, dict[str, type]] = {
    "sweep": {"params": dict},
    "trial": {"point": dict},
    "report": {"step": int, "metrics": dict},
    "checkpoint": {"step": int, "checkpoint": str},
    "end": {"state": str},
    "sweep_end": {"state": str},
}
"""What an event of a kind cannot do without."""
CLEANING_SECONDS = 20.0
"""How long a start waits for what a killed command has left to be cleaned away."""


class Journal:
    """The journal of one sweep. Appending is safe from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "journal.jsonl"
        self._lock = threading.Lock()

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event; `t`, milliseconds since the epoch, may be given for something that happened earlier."""
        if isinstance(fields.get("error"), str):
            fields["error"] = credentials.mask(fields["error"])  # another program's words, which may repeat an address
        event = {"t": fields.pop("t", int(time.time() * 1000)), "kind": kind, **fields}
        with self._lock, self.file.open("a+b") as stream:
            if stream.tell() > 0 and not self._ends_line(stream):
                stream.write(b"\n")
            stream.write(json.dumps(event, allow_nan=True).encode() + b"\n")

    @staticmethod
    def _ends_line(stream: Any) -> bool:
        """Whether the last line is whole; a crash may have torn it."""
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"

    def events(self) -> Iterator[dict[str, Any]]:
        """All events, oldest first; a torn line, or one that is no event of ours, is left out."""
        if not self.file.exists():
            return
        for line in self.file.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if is_event(event):
                yield event

    def records(self) -> dict[int, Record]:
        """The trials by index."""
        found: dict[int, Record] = {}
        for event in self.events():
            if event["kind"] in ("trial", "report", "checkpoint", "end") and event.get("trial") is not None:
                replay(found.setdefault(event["trial"], Record(event["trial"])), event)
        return found


def is_event(found: Any) -> bool:
    """Whether a line of a journal is an event as this program writes them; someone may have edited it."""
    if not isinstance(found, dict) or not isinstance(found.get("t"), int) or not isinstance(found.get("trial"), int | None):
        return False
    needed = NEEDED.get(str(found.get("kind")), {"kind": str})
    numbers = found["metrics"].values() if isinstance(found.get("metrics"), dict) else ()
    return all(isinstance(found.get(name), kind) for name, kind in needed.items()) and all(isinstance(n, int | float) for n in numbers)


def replay(record: Record, event: dict[str, Any]) -> None:
    """Bring a record up to date with one event."""
    if event["kind"] == "trial":
        record.point, record.state, record.error = event["point"], "running", None
    elif event["kind"] == "report":
        # The winner's test scores are reported later, at the step of its best checkpoint.
        record.reports.setdefault(event["step"], {}).update(event["metrics"])
        if event.get("checkpoint"):
            record.checkpoints[event["step"]] = event["checkpoint"]
    elif event["kind"] == "checkpoint":
        record.checkpoints[event["step"]] = event["checkpoint"]
    else:
        record.state, record.error = event["state"], event.get("error")


def sweep_folder(storage: str, name: str) -> Path:
    """Where a sweep keeps everything, as an absolute path."""
    return storage_folder(storage) / "sweeps" / name


def storage_folder(storage: str) -> Path:
    """The storage setting as an absolute path; of an object store this machine's working copy, see mirror.py."""
    if store.is_uri(storage):
        return fetch.cache_folder() / "storage" / hashlib.sha256(storage.rstrip("/").encode()).hexdigest()[:12]
    folder = unquote(storage.removeprefix("file://")) if storage.startswith("file://") else storage
    return Path(os.path.expanduser(folder)).absolute()


@contextmanager
def locked(storage: str, sweep: str | None = None) -> Iterator[None]:
    """Hold the store alone, or one sweep of a store that several commands share. Raises InputError naming the other process when someone
    else holds it. The lock ends with its process and all that this has started (lifeline.py); what a killed one has left is waited for.
    """
    folder = lock_folder(storage_folder(storage), sweep)
    lock = Lock(folder / ".lock")
    deadline = time.monotonic() + CLEANING_SECONDS
    try:
        if sweep is None or store.is_uri(storage):  # this machine's alone; a folder that a cluster shares belongs to a group
            create_private(storage_folder(storage))
        folder.mkdir(parents=True, exist_ok=True)
        while not lock.acquire():
            owner = read_text(folder / ".owner")
            if time.monotonic() > deadline or (owner and not is_gone(owner)):  # without an owner someone is just coming or going
                what = f"storage {storage}" if sweep is None else f"sweep {sweep} of storage {storage}"
                held = f"{what} is in use by {owner or 'another process'}"
                raise InputError(f"{held}; wait for it to end, or use another one: storage=FOLDER")
            time.sleep(0.1)
    except OSError as error:
        raise InputError(f"storage {storage} cannot be written: {error.strerror or error}; choose another one: storage=FOLDER") from error
    owner = f"{this_process()}, started {time.strftime('%H:%M:%S')}"
    try:
        with lifeline.opened(lock.descriptor) as line:
            line.remove_file(folder / ".owner", owner)
            write_whole(folder / ".owner", owner)
            yield
    finally:
        lock.release()


def this_process() -> str:
    """How a lock and a journal name who works."""
    return f"process {os.getpid()} on {os.uname().nodename}"


def is_gone(owner: str) -> bool:
    """Whether an owner as `locked` writes it is a process of this machine that has ended: what it has started is being ended, too."""
    found = re.match(r"process (\d+) on (\S+?),", owner)
    if found is None or found[2] != os.uname().nodename:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    status = read_text(Path("/proc") / found[1] / "stat")
    return status.rpartition(")")[2].split()[:1] == ["Z"]


def create_private(folder: Path) -> None:
    """Make a folder that only this user can open, unless it is there: then it may be shared, and its rights are its owner's business."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def lock_folder(folder: Path, sweep: str | None) -> Path:
    """Where the lock of a storage folder, or of one of its sweeps, lies."""
    return folder if sweep is None else folder / "locks" / sweep


def held_by(storage: Path, sweep: str | None = None) -> str | None:
    """Who holds a storage folder or one of its sweeps now, as `locked` has written it; None when nobody does. Looking disturbs nobody."""
    folder = lock_folder(storage, sweep)
    return (read_text(folder / ".owner") or "another process") if is_held(folder / ".lock") else None


def read_text(path: Path) -> str:
    """The text of a file, nothing when it is not there, or is being removed."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return ""


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that whoever reads it meanwhile sees all of it or what was there before."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of ours; empty when there is none, or when it is torn: what such files hold can be made again."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(draft, path)


def forget(folder: Path, submission: str | None = None) -> None:
    """Remove what an earlier run of the sweep has left, but not what an earlier attempt of the same submission to a cluster has done."""
    known = folder / ".submission"
    if submission is not None and read_text(known) == submission:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if submission is not None:
        folder.mkdir(parents=True)
        known.write_text(submission, encoding="utf-8")
