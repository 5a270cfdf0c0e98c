"""A storage in an object store: this machine works in a folder of its own, which is brought up to date before and copied back all along.

Owns what is mirrored (journals and small files; checkpoints and data go to the store directly, see jobs/store.py), who may write, and how
often. A head that is lost loses at most the events of the last seconds: the trials' checkpoints are there, so little is trained again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import store
from orchestrator.errors import InputError
from orchestrator.journal import storage_folder

PUSH_SECONDS = 5.0
BEAT_SECONDS = 20.0
STALE_SECONDS = 90.0
"""After so long without a sign of life its owner counts as dead."""
JOURNAL = "journal.jsonl"
TRACKED = ("tracking.told", "tracking.json", "tracking-refused.jsonl")
SMALL = (JOURNAL, "result.json", *TRACKED, "config.yaml", ".submission", "rates.json", "base-scores.json")


@contextmanager
def kept(storage: str, sweep: str) -> Iterator[None]:
    """Hold a sweep of an object store alone and keep it in step with this machine's folder; nothing for a storage that is a folder.

    Raises InputError when it cannot be read or written, or when another command works on the sweep.
    """
    if not store.is_uri(storage):
        yield
        return
    try:
        mirror = Mirror(storage, sweep)
        mirror.claim()
        mirror.pull()
    except OSError as error:
        raise InputError(
            f"storage {storage} cannot be used: {str(error).splitlines()[0][:300]}; check its name and your credentials"
        ) from error
    thread = threading.Thread(target=mirror.loop, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        mirror.ended.set()
        thread.join(60)
        mirror.finish()


def forget(storage: str, name: str, folder: Path) -> None:
    """Remove a sweep over there too, unless it was kept here for an earlier attempt of the same submission."""
    if store.is_uri(storage) and not (folder / JOURNAL).exists():
        store.remove(store.join(storage, "sweeps", name))


def stamp(file: Path) -> tuple[int, int]:
    """What changes when a file does."""
    return file.stat().st_size, file.stat().st_mtime_ns


class Mirror:
    """The small files of one sweep and of its storage, here and there."""

    def __init__(self, storage: str, sweep: str) -> None:
        self.storage, self.sweep, self.folder = storage, sweep, storage_folder(storage)
        self.owner = f"owners/{sweep}.json"
        self.pushed: dict[Path, tuple[int, int]] = {}
        self.ended, self.beaten = threading.Event(), 0.0
        self.folder.mkdir(parents=True, exist_ok=True)

    def claim(self) -> None:
        """Write down that this command uses the storage. Raises InputError when another one does."""
        there = self.read(self.owner)
        if there is not None:
            owner = json.loads(there)
            if time.time() - owner["t"] < STALE_SECONDS:
                raise InputError(f"sweep {self.sweep} of storage {self.storage} is in use by {owner['who']}; wait for it to end")
        self.beat()

    def beat(self) -> None:
        """A sign of life."""
        who = f"process {os.getpid()} on {os.uname().nodename}"
        own = self.folder / self.owner
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps({"who": who, "t": time.time()}), encoding="utf-8")
        store.put(own, store.join(self.storage, self.owner))
        self.beaten = time.monotonic()

    def release(self) -> None:
        """Let others use the storage."""
        store.remove(store.join(self.storage, self.owner))

    def read(self, name: str) -> str | None:
        """A file's text over there, or None."""
        system, path = store.opened(store.join(self.storage, name))
        if not store.listing(system, path):
            return None
        with system.open_input_stream(path) as stream:
            return stream.read().decode()

    def pull(self) -> None:
        """Fetch what is over there, which is the truth; only a journal that has grown here since the last push is kept."""
        system, root = store.opened(self.storage)
        mine = self.folder / "sweeps" / self.sweep
        files = {self.folder / name: f"{root.rstrip('/')}/{name}" for name in SMALL}
        files |= {mine / name: f"{root.rstrip('/')}/sweeps/{self.sweep}/{name}" for name in SMALL}
        files = {own: path for own, path in files.items() if store.listing(system, path)}
        if mine / JOURNAL not in files:
            shutil.rmtree(mine, ignore_errors=True)
        for own, path in files.items():
            with system.open_input_stream(path) as stream:
                there = stream.read()
            if own.name != JOURNAL or not own.exists() or not own.read_bytes().startswith(there):
                own.parent.mkdir(parents=True, exist_ok=True)
                own.write_bytes(there)
                self.pushed[own] = stamp(own)

    def push(self) -> None:
        """Copy what has changed here."""
        for file in [file for name in SMALL for file in (*self.folder.glob(name), *self.folder.glob(f"sweeps/{self.sweep}/{name}"))]:
            now = stamp(file)
            if self.pushed.get(file) != now:
                store.put(file, store.join(self.storage, str(file.relative_to(self.folder))))
                self.pushed[file] = now

    def finish(self) -> None:
        """Copy the last changes and let others use the sweep. A store that does not answer is said; this machine keeps the files."""
        try:
            self.push()
            self.release()
        except OSError as error:
            why = str(error).splitlines()[0][:300]
            print(f"note    {self.storage} does not take the last events ({why}); the same command here writes them", file=sys.stderr)

    def loop(self) -> None:
        """Until the end; a store that does not answer is tried again."""
        while not self.ended.wait(PUSH_SECONDS):
            try:
                self.push()
                if time.monotonic() - self.beaten > BEAT_SECONDS:
                    self.beat()
            except OSError:
                continue
