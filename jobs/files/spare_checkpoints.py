"""Checkpoints that can no longer win: neither a trial's newest one, nor that of its last rung, from
which it goes on, nor its best one, which is judged. They are kept as long as there is room, in case
the newest one turns out damaged.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from jobs.files.json_types import JsonObject

REPORT = "report.json"
DRAFT = "draft-"
STALE_SECONDS = 600.0
"""A draft that nobody has written to for so long is of a process that has died."""
Score = Callable[[JsonObject | None], float | None]
"""What a checkpoint's report says of it, higher being better; None where it says nothing."""


def steps_of(names: Iterable[str]) -> list[int]:
    """The steps of the checkpoints among these names, from the first one."""
    matches = [re.fullmatch(r"step-(\d+)", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def spare_in(home: Path, score: Score) -> list[Path]:
    """The checkpoints of one trial that can no longer win, and drafts of processes that have died.

    `home` is the trial's folder.
    """
    try:
        names = [entry.name for entry in home.iterdir()]
    except OSError:
        return []
    stale = [home / name for name in names if name.startswith(DRAFT) and is_stale(home / name)]
    steps = steps_of(names)
    scored = [
        (value, step)
        for step in steps
        if (value := score(report_of(home / f"step-{step:06d}"))) is not None
    ]
    last_rung = max(
        (step for step in steps if (home / f"step-{step:06d}" / REPORT).exists()), default=0
    )
    needed = {max(steps, default=0), last_rung, max(scored, default=(0.0, 0))[1]}
    return stale + [home / f"step-{step:06d}" for step in steps if step not in needed]


def report_of(folder: Path) -> JsonObject | None:
    """What a trial has reported at a checkpoint, where that can be read."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def is_stale(draft: Path) -> bool:
    """Whether nobody works on a draft any more."""
    try:
        return time.time() - draft.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size if not file.is_dir() else 0
        except OSError:  # it has just been removed
            continue
    return total


def remove_spare(place: Path, score: Score) -> tuple[int, int]:
    """Remove the checkpoints of all trials below `place` that can no longer win; returns how many,
    and their bytes.
    """
    count = freed = 0
    for home in sorted(place.glob("trial-*")):
        for folder in spare_in(home, score):
            freed += folder_bytes(folder)
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count, freed
