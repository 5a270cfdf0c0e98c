"""What a sweep has come to, and what it has left on the machine: two sweeps can be compared, and
nothing may stay behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.storage.spending import PREFIX

PACE = ("second", "tokens_per", "time", "memory", "utilization", "/tokens", "system/")
"""Parts of the names of metrics that differ from one run to the next."""
GONE_SECONDS = 5.0
"""How soon after the end of a command nothing of it may be left."""
SHARED_MEMORY = Path("/dev/shm")
OURS = ("plasma", "torch", "psm_", "sem.", "ray", "orchestrator", "sweep")
"""How what Ray, torch, Python and this project put there begins; others work on the machine,
too.
"""


def steady(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that the same work always gives."""
    return {key: value for key, value in metrics.items() if not any(part in key for part in PACE)}


def events(storage: Path) -> list[dict[str, Any]]:
    """All whole lines of the journals in a store."""
    found = []
    for file in sorted(storage.glob("sweeps/*/journal.jsonl")):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def trials(storage: Path) -> dict[str, Any]:
    """Of each trial its settings, its state and its scores at every rung."""
    found: dict[str, Any] = {}
    for event in events(storage):
        if event["kind"] in ("trial", "report", "end") and event.get("trial") is not None:
            trial = found.setdefault(
                str(event["trial"]), {"point": None, "state": None, "scores": {}}
            )
            if event["kind"] == "trial":
                trial["point"] = event["point"]
            elif event["kind"] == "end":
                trial["state"] = event["state"]
            else:
                trial["scores"].setdefault(str(event["step"]), {}).update(steady(event["metrics"]))
    return found


def adapters(storage: Path) -> dict[str, str]:
    """A hash of every weight that was exported, by its file's name."""
    files = sorted(storage.glob("sweeps/*/export/**/*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tracked(file: Path) -> dict[str, Any]:
    """What MLflow's database holds: of every run, by its name, how often it is there, its state,
    and the steps and values of each metric.
    """
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    with contextlib.closing(database):
        runs = database.execute(
            "select run_uuid, name, status from runs where lifecycle_stage = 'active'"
        ).fetchall()
        counts = Counter(name for _, name, _ in runs)
        found: dict[str, Any] = {}
        for id, name, status in runs:
            rows = database.execute(
                "select key, step, value from metrics where run_uuid = ? order by key, step", (id,)
            ).fetchall()
            series: dict[str, list[list[float]]] = {}
            for key, step, value in rows:
                if steady({key: value}):
                    series.setdefault(key, []).append([step, value])
            spent = {key: series.pop(key) for key in list(series) if key.startswith(PREFIX)}
            found[name] = {
                "times": counts[name],
                "status": status,
                "metrics": series,
                "spent": {key: grows(points) for key, points in spent.items()},
            }
    return found


def grows(points: list[list[float]]) -> bool:
    """Whether what is spent stands once for each second, and is never less than before."""
    pairs = list(itertools.pairwise(points))
    return all(before[0] < after[0] and before[1] <= after[1] for before, after in pairs)


def account(storage: Path, database: Path, result: dict[str, Any]) -> dict[str, Any]:
    """All that two runs of the same sweep must have in common. `database` is MLflow's."""
    best = result.get("best") or {}
    told = {
        "trial": best.get("trial"),
        "params": best.get("params"),
        "metrics": steady(best.get("metrics") or {}),
    }
    counts = result["trials"]
    return {
        "best": told,
        "counts": counts,
        "trials": trials(storage),
        "adapters": adapters(storage),
        "mlflow": tracked(database),
    }


def differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Where two accounts differ, each in a few words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        return [
            text
            for key in keys
            for text in differences(found.get(key), wanted.get(key), f"{path}/{key}".lstrip("/"))
        ]
    if isinstance(found, list) and isinstance(wanted, list) and path.startswith("mlflow/"):
        return series_differences(found, wanted, path)
    same = found == wanted or (found != found and wanted != wanted)
    return [] if same else [f"{path}: {short(found)} instead of {short(wanted)}"]


def series_differences(found: list[Any], wanted: list[Any], path: str) -> list[str]:
    """Where the steps of a metric differ."""
    steps, other = Counter(step for step, _ in found), Counter(step for step, _ in wanted)
    twice = sorted(step for step, count in (steps - other).items() if step in other and count)
    missing, extra = sorted(set(other) - set(steps)), sorted(set(steps) - set(other))
    said = []
    for what, where in (("twice at", twice), ("missing at", missing), ("too much at", extra)):
        if where:
            said.append(f"{path}: {what} {short(where)}")
    if not said and [value for _, value in found] != [value for _, value in wanted]:
        said.append(f"{path}: other values")
    return said


def short(value: Any) -> str:
    """A value in few characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def processes(words: list[str]) -> dict[int, str]:
    """Living processes whose environment or command line holds one of the words, with their command
    lines.
    """
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = (
                Path("/proc", name, "cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
            around = Path("/proc", name, "environ").read_bytes().decode(errors="replace")
            state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
            if (
                state not in "ZX"
                and int(name) != os.getpid()
                and any(word in line or word in around for word in words)
            ):
                found[int(name)] = line.strip()
    return found


def leftovers(storage: Path, temporary: Path, mark: str, shared_before: set[str]) -> list[str]:
    """What a command has left that ought to be gone, after it was given some seconds."""
    deadline = time.monotonic() + GONE_SECONDS
    while (
        left := left_now(storage, temporary, mark, shared_before)
    ) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def left_now(storage: Path, temporary: Path, mark: str, shared_before: set[str]) -> list[str]:
    """The same, at this moment."""
    left = [f"process {pid} ({line[:80]})" for pid, line in processes([mark]).items()]
    left += [f"temporary {entry.name}" for entry in temporary.iterdir()]
    left += [f"owner {file.relative_to(storage)}" for file in storage.rglob(".owner")]
    left += [f"draft {file.relative_to(storage)}" for file in storage.rglob("*.draft")]
    new = {
        entry.name for entry in SHARED_MEMORY.iterdir() if entry.name.startswith(OURS)
    } - shared_before
    return left + [
        f"shared memory {name}" for name in sorted(new) if is_orphan(SHARED_MEMORY / name)
    ]


def is_orphan(file: Path) -> bool:
    """Whether no living process has a file of ours open or mapped."""
    with contextlib.suppress(OSError):
        if file.stat().st_uid != os.geteuid():
            return False
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if str(file) in Path("/proc", name, "maps").read_text(errors="replace"):
                return False
            if any(os.readlink(link) == str(file) for link in Path("/proc", name, "fd").iterdir()):
                return False
    return file.exists()


def litter(storage: Path) -> list[str]:
    """What a finished sweep ought not to have in its storage."""
    return [f"folder {folder.relative_to(storage)}" for folder in storage.glob("sweeps/*/tune")]
