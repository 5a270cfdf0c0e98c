"""What a sweep keeps on disk or in an object store, how large it is, and what of it nobody needs:
`runs clean`.

Kept is what the same command, or a larger one, goes on from: of each trial that may still win the
newest checkpoint, that of its last rung, and the best. Of a sweep that is finished the trials that
were stopped or lost go, as the sweep itself removes them when they end. Nothing of one that runs is
touched, and journals, results, reports and exports always stay.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.files import filesystem
from jobs.files.storage_faults import size
from orchestrator.config.run_numbers import is_finalist
from orchestrator.errors import OrchestratorError
from orchestrator.output.console import plural
from orchestrator.report.sweep_data import SweepData, read_sweep
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.runs.object_store import StoreRuns
from orchestrator.storage.journal import Record

QUIET_SECONDS = 120.0
"""Files that were written so lately may be of a command that is not seen from here."""
OVER = ("finished", "stopped", "failed")
DRY = "--dry-run"
CHECKPOINT = re.compile(r"train/trial-(\d+)/step-(\d+)/")
LEFT_BEHIND = re.compile(r"(train/trial-\d+/draft-[^/]+|tune)/")


@dataclass
class Contents:
    """The files of one sweep: bytes by path below its folder, and when one was written last."""

    sizes: dict[str, int] = field(default_factory=dict)
    newest: float = 0.0
    """Seconds since the epoch."""

    def below(self, folder: str) -> int:
        """Bytes of the files below a folder."""
        return sum(count for path, count in self.sizes.items() if path.startswith(f"{folder}/"))

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def contents(runs: LocalRuns, name: str) -> Contents:
    """What lies in a sweep's place."""
    files = Contents()
    if isinstance(runs, StoreRuns):
        root = f"{runs.root}/sweeps/{name}"
        for info in filesystem.listing(runs.system, root):
            files.sizes[info.path.removeprefix(f"{root}/")] = int(info.size or 0)
            written = info.mtime.timestamp() if info.mtime else 0.0
            files.newest = max(files.newest, written)
        return files
    folder = runs.sweep(name)
    for file in folder.rglob("*"):
        try:
            if file.is_dir():
                continue
            facts = file.lstat()
        except OSError:  # it has just gone
            continue
        files.sizes[file.relative_to(folder).as_posix()] = facts.st_size
        files.newest = max(files.newest, facts.st_mtime)
    return files


def needless(data: SweepData, records: Mapping[int, Record], files: Contents) -> list[str]:
    """The folders of a sweep that does not run of which nobody needs anything."""
    steps: dict[int, set[int]] = defaultdict(set)
    left: set[str] = set()
    for path in files.sizes:
        if match := CHECKPOINT.match(path):
            steps[int(match[1])].add(int(match[2]))
        elif match := LEFT_BEHIND.match(path):
            left.add(match[1])
    contenders = may_win(data, records)
    for index, there in steps.items():
        record = records.get(index)
        going = contenders is None or index in contenders or is_finalist(index)
        going = going or record is None or record.state not in OVER
        wanted = needed_steps(data, record, there) if going else set()
        left |= {f"train/trial-{index:03d}/step-{step:06d}" for step in there - wanted}
    return sorted(left)


def may_win(data: SweepData, records: Mapping[int, Record]) -> set[int] | None:
    """The trials of a finished sweep that a continued one would choose its finalists from; None for
    a sweep that is not finished, of which all may.
    """
    if data.state != "finished":
        return None
    final = data.config.get("final")
    count = final.get("count") if isinstance(final, dict) else None
    most = max(count if isinstance(count, int) else 1, 1)
    best = data.result.get("best") or {}
    winner = {best[key] for key in ("trial", "run") if isinstance(best.get(key), int)}
    return winner | {trial.index for trial in data.ranked()[:most]}


def needed_steps(data: SweepData, record: Record | None, there: set[int]) -> set[int]:
    """The newest checkpoint of a trial, that of its last rung, and the best."""
    reports = {} if record is None else record.reports
    rungs = [step for step in there if step in reports]
    best = None
    if record is not None:
        present = Record(record.index, reports={step: reports[step] for step in rungs})
        best = present.best(data.metric, data.maximise)
    return {max(there), *([max(rungs)] if rungs else []), *([] if best is None else [best[0]])}


def clean_one(runs: LocalRuns, name: str, dry: bool) -> dict[str, Any]:
    """Clean one sweep; returns what it holds, and what was removed."""
    record = runs.record(runs.folder / "sweeps" / name)
    files = contents(runs, name)
    entry: dict[str, Any] = {
        "name": name,
        "state": record["state"],
        "bytes": files.total,
        "checkpoint_bytes": files.below("train"),
        "removed": [],
        "removed_bytes": 0,
    }
    written_lately = time.time() - files.newest < QUIET_SECONDS
    if record["state"] == "running" or (record["ended"] is None and written_lately):
        return entry | {"kept_because": "it runs"}
    folder = runs.folder / "sweeps" / name
    folders = needless(read_sweep(folder), runs.history(folder).records, files)
    for below in folders:
        if not dry:
            remove(runs, name, below)
        entry["removed_bytes"] += files.below(below)
    return entry | {"removed": folders}


def remove(runs: LocalRuns, name: str, below: str) -> None:
    """Remove a folder of a sweep. Raises OrchestratorError where that is not possible."""
    where = filesystem.join(runs.where(name), below)
    try:
        if isinstance(runs, StoreRuns):
            filesystem.remove(where)
        else:
            shutil.rmtree(where)
    except OSError as error:
        raise OrchestratorError(
            f"{where} cannot be removed: {error.strerror or error}; remove it by hand"
        ) from error


def clean(runs: LocalRuns, words: list[str]) -> tuple[str, dict[str, Any]]:
    """Clean the sweeps that `words` name, or all; as a text and as a record."""
    dry = DRY in words
    asked = [word for word in words if word != DRY]
    for name in asked:
        runs.sweep(name)  # a name that is not there is said before anything is removed
    names = asked or [record["name"] for record in runs.listed()]
    entries = [clean_one(runs, name, dry) for name in names]
    freed = sum(one["removed_bytes"] for one in entries)
    would = "would be removed" if dry else "removed"
    lines = [line_of(one, would) for one in entries] or ["no sweeps here"]
    if entries:
        lines.append(f"{size(freed)} {would} of {size(sum(one['bytes'] for one in entries))}")
    record = {"name": asked[0] if asked else None, "dry_run": dry, "sweeps": entries}
    return "\n".join(lines), record | {"removed_bytes": freed}


def line_of(entry: dict[str, Any], would: str) -> str:
    """What is said of one sweep."""
    holds = f"{size(entry['bytes'])}, of it {size(entry['checkpoint_bytes'])} of checkpoints"
    if "kept_because" in entry:
        return f"{entry['name']}  {holds}; {entry['kept_because']}: left as it is"
    if not entry["removed"]:
        return f"{entry['name']}  {holds}; nothing to remove"
    count = plural(len(entry["removed"]), "folder")
    return f"{entry['name']}  {holds}; {count} {would}, {size(entry['removed_bytes'])}"
