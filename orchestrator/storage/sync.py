"""A storage in an object store: this machine works in a folder of its own, which is brought up to
date before and copied back all along.

Owns what is mirrored (journals and small files; checkpoints and data go to the store directly, see
jobs/files/filesystem.py), who may write, and how often. A head that is lost loses at most the
events of the last seconds: the trials' checkpoints are there, so little is trained again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.files import filesystem
from jobs.files.json_types import JsonObject
from orchestrator.errors import InputError
from orchestrator.storage.locks import is_gone, this_process
from orchestrator.storage.paths import storage_folder

PUSH_SECONDS = 5.0
BEAT_SECONDS = 20.0
STALE_SECONDS = 90.0
"""After so long without a sign of life its owner counts as dead."""
CLAIM_TRIES = 6
OUTWAIT_SECONDS = 5.0
JOURNAL = "journal.jsonl"
TRACKED = ("tracking.told", "tracking.json", "tracking-refused.jsonl")
SMALL = (
    JOURNAL,
    "result.json",
    "sizes.json",
    "report.html",
    *TRACKED,
    "config.yaml",
    ".submission",
    "rates.json",
    "base-scores.json",
)


@contextmanager
def synced(storage: str, sweep: str) -> Iterator[None]:
    """Hold a sweep of an object store alone and keep it in step with this machine's folder; nothing
    for a storage that is a folder.

    Raises InputError when it cannot be read or written, or when another command works on the sweep.
    """
    if not filesystem.is_uri(storage):
        yield
        return
    try:
        mirror = StorageSync(storage, sweep)
        mirror.claim()
        mirror.pull()
    except OSError as error:
        raise InputError(
            f"storage {storage} cannot be used: {str(error).splitlines()[0][:300]}; check its name "
            "and your credentials"
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
    """Remove a sweep over there too, unless it was kept here for an earlier attempt of the same
    submission.
    """
    if filesystem.is_uri(storage) and not (folder / JOURNAL).exists():
        filesystem.remove(filesystem.join(storage, "sweeps", name))


def stamp(file: Path) -> tuple[int, int]:
    """What changes when a file does."""
    return file.stat().st_size, file.stat().st_mtime_ns


class StorageSync:
    """The small files of one sweep and of its storage, here and there."""

    def __init__(self, storage: str, sweep: str) -> None:
        self.storage = storage
        self.sweep = sweep
        self.folder = storage_folder(storage)
        self.claims = f"owners/{sweep}"
        self.claim_file = self.folder / self.claims / f"{uuid.uuid4().hex}.json"
        """This command's claim, here; it has the same name there."""
        self.taken_by: str | None = None
        self.pushed: dict[Path, tuple[int, int]] = {}
        self.ended = threading.Event()
        self.beaten = 0.0
        self.folder.mkdir(parents=True, exist_ok=True)

    def claim(self) -> None:
        """Write down that this command works on the sweep. Raises InputError when another one does.

        Stores differ in what they can do under a condition, and all list what was written before.
        So everyone writes a claim of their own, looks, and holds the sweep only when nobody else's
        is there: of two, the one that wrote later has seen the other's. Of those who meet, the
        first by name stays until the others have taken theirs back; these try again after pauses of
        unequal length.
        """
        rivals: list[JsonObject] = []
        for attempt in range(CLAIM_TRIES):
            self.beat(is_holder=False)
            rivals = self.others()
            if rivals and all(self.is_before(rival) for rival in rivals):
                rivals = self.outwait()
            if not rivals:
                self.beat()
                return
            self.release()
            if any(rival["held"] for rival in rivals):
                break
            time.sleep(random.uniform(0.1, 0.6) * 2 ** min(attempt, 3))
        raise InputError(
            f"sweep {self.sweep} of storage {self.storage} is in use by {rivals[0]['who']}; wait "
            "for it to end"
        )

    def is_before(self, rival: JsonObject) -> bool:
        """Whether this command, not the other one, is to get a sweep which nobody holds."""
        return not rival["held"] and self.claim_file.name < rival["file"]

    def outwait(self) -> list[JsonObject]:
        """The claims that are left when the others had time to take theirs back."""
        deadline = time.monotonic() + OUTWAIT_SECONDS
        while (rivals := self.others()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return rivals

    def others(self) -> list[JsonObject]:
        """The claims of others that live, holders first. Those of the dead are removed."""
        system, path = filesystem.opened(filesystem.join(self.storage, self.claims))
        claim_infos = {
            info.path.rsplit("/", 1)[-1]: info for info in filesystem.listing(system, path)
        }
        own_claim = claim_infos.pop(self.claim_file.name, None)
        alive = []
        for info in claim_infos.values():
            claim = self.read_claim(system, info.path)
            if claim is None:
                continue
            # Both moments are the store's own: clocks of machines differ.
            age = (
                (own_claim.mtime - info.mtime).total_seconds()
                if own_claim is not None and own_claim.mtime and info.mtime
                else time.time() - claim["t"]
            )
            if age > STALE_SECONDS or is_gone(f"{claim['who']},"):
                with contextlib.suppress(FileNotFoundError):
                    system.delete_file(info.path)
            else:
                alive.append(claim | {"file": info.path.rsplit("/", 1)[-1]})
        return sorted(alive, key=lambda claim: not claim["held"])

    @staticmethod
    def read_claim(system: Any, path: str) -> JsonObject | None:
        """A claim, or None when it has just been taken back."""
        try:
            claim = json.loads(filesystem.read(system, path))
        except FileNotFoundError:
            return None
        except ValueError:
            claim = {}
        return {"who": "another process", "t": time.time(), "held": False} | (
            claim if isinstance(claim, dict) else {}
        )

    def beat(self, is_holder: bool = True) -> None:
        """A sign of life."""
        claim = {"who": this_process(), "t": time.time(), "held": is_holder}
        self.claim_file.parent.mkdir(parents=True, exist_ok=True)
        self.claim_file.write_text(json.dumps(claim), encoding="utf-8")
        filesystem.put(
            self.claim_file, filesystem.join(self.storage, self.claims, self.claim_file.name)
        )
        self.beaten = time.time()

    def release(self) -> None:
        """Let others use the sweep."""
        filesystem.remove(filesystem.join(self.storage, self.claims, self.claim_file.name))
        self.claim_file.unlink(missing_ok=True)

    def is_taken(self) -> str | None:
        """Who has taken the sweep over, if someone has: this machine gave no sign of life for so
        long that it counted as dead.
        """
        if filesystem.exists(filesystem.join(self.storage, self.claims, self.claim_file.name)):
            return None
        return next((rival["who"] for rival in self.others()), "another command")

    def pull(self) -> None:
        """Fetch what is over there, which is the truth; only a journal that has grown here since
        the last push is kept.
        """
        system, root = filesystem.opened(self.storage)
        mine = self.folder / "sweeps" / self.sweep
        files = {self.folder / name: f"{root.rstrip('/')}/{name}" for name in SMALL}
        files |= {mine / name: f"{root.rstrip('/')}/sweeps/{self.sweep}/{name}" for name in SMALL}
        files = {file: path for file, path in files.items() if filesystem.listing(system, path)}
        if mine / JOURNAL not in files:
            shutil.rmtree(mine, ignore_errors=True)
        for file, path in files.items():
            remote_bytes = filesystem.read(system, path)
            if (
                file.name != JOURNAL
                or not file.exists()
                or not file.read_bytes().startswith(remote_bytes)
            ):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(remote_bytes)
                self.pushed[file] = stamp(file)

    def push(self) -> None:
        """Copy what has changed here."""
        for file in [
            file
            for name in SMALL
            for file in (*self.folder.glob(name), *self.folder.glob(f"sweeps/{self.sweep}/{name}"))
        ]:
            now = stamp(file)
            if self.pushed.get(file) != now:
                filesystem.put(
                    file, filesystem.join(self.storage, str(file.relative_to(self.folder)))
                )
                self.pushed[file] = now

    def finish(self) -> None:
        """Copy the last changes and let others use the sweep. A store that does not answer is said;
        this machine keeps the files.
        """
        if self.taken_by is not None:
            return
        try:
            self.push()
            self.release()
        except OSError as error:
            why = str(error).splitlines()[0][:300]
            print(
                f"note    {self.storage} does not take the last events ({why}); the same command "
                "here writes them",
                file=sys.stderr,
            )

    def loop(self) -> None:
        """Until the end; a store that does not answer is tried again."""
        while not self.ended.wait(PUSH_SECONDS):
            try:
                # First the sign of life: after a long silence, what is over there may be another
                # command's by now.
                if abs(time.time() - self.beaten) > BEAT_SECONDS:  # also of a clock set back
                    self.taken_by = self.is_taken()
                    if self.taken_by is not None:
                        self.give_way()
                        return
                    self.beat()
                self.push()
            except OSError:
                continue

    def give_way(self) -> None:
        """Stop this command, whose sweep another one works on."""
        print(
            f"note    sweep {self.sweep} was taken over by {self.taken_by}, since this machine was "
            "silent; stopping here",
            file=sys.stderr,
        )
        os.kill(os.getpid(), signal.SIGTERM)
