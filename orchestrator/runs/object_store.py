"""Sweeps of an object store, looked at from any machine that has its credentials: the small files
of each are read into a folder that lasts as long as the command.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.files import filesystem
from jobs.files.drafts import drafted
from jobs.files.storage_faults import size
from orchestrator.errors import InputError
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.storage.sync import STALE_SECONDS

NAMES = ("journal.jsonl", "result.json", "config.yaml", "report.html", "tracking.json")


class StoreRuns(LocalRuns):
    """The sweeps of an object store."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.copy = tempfile.TemporaryDirectory(prefix="runs-")
        self.folder = Path(self.copy.name)
        self.histories = {}
        self.live_jobs = set()
        try:
            self.system, root = filesystem.opened(storage)
            self.root = root.rstrip("/")
            for name in self.names():
                self.pull(name)
        except OSError as error:
            raise InputError(
                f"--storage {storage} cannot be read: {str(error).splitlines()[0][:300]}; check "
                "its name and your credentials"
            ) from error

    def names(self) -> list[str]:
        """The sweeps that are there."""
        from pyarrow.fs import FileSelector

        chosen = FileSelector(f"{self.root}/sweeps", allow_not_found=True)
        return [info.base_name for info in self.system.get_file_info(chosen)]

    def pull(self, name: str) -> None:
        """Read the small files of one sweep anew."""
        for file in NAMES:
            path = f"{self.root}/sweeps/{name}/{file}"
            if not self.system.get_file_info(path).is_file:
                continue
            local = self.folder / "sweeps" / name / file
            local.parent.mkdir(parents=True, exist_ok=True)
            with drafted(local) as draft:
                draft.write_bytes(filesystem.read(self.system, path))

    def record(self, folder: Path) -> dict[str, Any]:
        """What the journal over there tells in one line."""
        self.pull(folder.name)
        return super().record(folder) | {"where": self.where(folder.name)}

    def show(self, name: str) -> dict[str, Any]:
        """See runs.Place; sizes are those over there."""
        record = super().show(name)
        root = f"{self.root}/sweeps/{name}"
        sizes = {info.path: int(info.size or 0) for info in filesystem.listing(self.system, root)}
        trained = sum(n for path, n in sizes.items() if path.startswith(f"{root}/train/"))
        words = f"{size(sum(sizes.values()))}, of it {size(trained)} of checkpoints"
        return record | {"size": words}

    def where(self, name: str) -> str:
        """Where a sweep's driver looks for requests."""
        return filesystem.join(self.storage, "sweeps", name)

    def publish(self, name: str, file: Path) -> Path:
        """A report goes to this machine's current folder: the one over there has the answers in it,
        which stay with the sweep's driver.
        """
        target = Path(f"report-{name}.html").absolute()
        return Path(shutil.move(file, target))

    def owner(self, name: str) -> str | None:
        """Who works on a sweep, by the claims that commands renew as long as they live."""
        for info in filesystem.listing(self.system, f"{self.root}/owners/{name}"):
            try:
                claim = json.loads(filesystem.read(self.system, info.path))
            except (OSError, ValueError):
                continue
            age = time.time() - info.mtime.timestamp() if info.mtime else 0.0
            if isinstance(claim, dict) and claim.get("held") and age < STALE_SECONDS:
                return str(claim.get("who") or "another process")
        return None

    def watch(self, name: str) -> int:
        """See runs.Place."""
        raise InputError(f"{name} lies in an object store: show tells how far it is")

    def stop(self, name: str) -> str:
        """See runs.Place."""
        folder = self.sweep(name)
        if self.record(folder)["state"] != "running":
            return f"{name} does not run"
        raise InputError(
            f"{name} is run by {self.owner(name)}: stop it there, or drop its trials here"
        )

    def delete(self, name: str) -> str:
        """See runs.Place."""
        raise InputError(
            f"{name} lies in an object store: delete {self.where(name)} with the store's own tools"
        )
