"""Where rows lie: paths of this machine, object stores (s3://...), the Hugging Face hub (hf://...),
and patterns of any of them.

Owns how each becomes a path of this machine; which files of a folder are read is splits.py's.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from jobs.data import hub_data
from jobs.data.file_forms import form_of, holds_rows, stem_of
from jobs.files import filesystem

WILDCARDS = re.compile(r"[*?\[]")


def is_remote(location: str) -> bool:
    """Whether a location is no path of this machine."""
    return filesystem.is_uri(location)


def local(location: str) -> str:
    """A location as a path or a pattern of this machine; what lies elsewhere is copied into the
    cache. Raises OSError for what cannot be fetched, and ValueError for what is no location.
    """
    if location.startswith("file://"):
        return location.removeprefix("file://")
    if not is_remote(location):
        return location
    if location.startswith(hub_data.SCHEME):
        return hub_data.fetch(location)
    match = WILDCARDS.search(location)
    if match is None:
        return filesystem.get(location)
    base = location[: location.rindex("/", 0, match.start())]
    return os.path.join(filesystem.get(base, location), location[len(base) + 1 :])


def hub_notes(named: Iterable[str]) -> list[str]:
    """Which commits the locations on the hub stand for."""
    commits = {one: hub_data.commit_of(one) for one in dict.fromkeys(named)}
    return [f"{one} is commit {commit[:12]}" for one, commit in commits.items() if commit]


def name_of(location: str) -> str:
    """What a location is called: the data set, the folder, or the file without its ending."""
    if location.startswith(hub_data.SCHEME):
        with contextlib.suppress(ValueError):
            return hub_data.parse(location).id.rpartition("/")[2]
    path = Path(os.path.abspath(os.path.expanduser(location)))
    while WILDCARDS.search(path.name) is not None and path.name:
        path = path.parent
    return path.name if form_of(path) is None or path.is_dir() else stem_of(path)


def folder_of(pattern: str) -> str:
    """The folder below which the files of a pattern lie, in all letters."""
    match = WILDCARDS.search(pattern)
    return os.path.dirname(pattern[: match.start()] if match is not None else pattern)


def is_pattern(path: str) -> bool:
    """Whether a path stands for all files that fit it, not for one of this very name."""
    return WILDCARDS.search(path) is not None and not os.path.lexists(os.path.expanduser(path))


def is_here(path: str) -> bool:
    """Whether a path is on this machine, or files that fit it are."""
    if is_pattern(path):
        return any(holds_rows(Path(file)) for file in glob.iglob(path, recursive=True))
    return os.path.exists(path)


def matching(pattern: str) -> list[str]:
    """The files of rows that fit a pattern, in order. Raises ValueError where there are none."""
    paths = sorted(glob.glob(os.path.expanduser(pattern), recursive=True), key=natural)
    files = [path for path in paths if holds_rows(Path(path))]
    if files:
        return files
    if paths:
        listed = ", ".join(os.path.basename(path) for path in paths[:8])
        raise ValueError(f"{pattern} fits no file of rows, only {listed}")
    base = Path(os.path.expanduser(WILDCARDS.split(pattern, maxsplit=1)[0]))
    folder = base if base.is_dir() else base.parent
    listed = ", ".join(sorted(os.listdir(folder))[:8]) if folder.is_dir() else ""
    holds = f"{folder} holds {listed or 'nothing'}" if folder.is_dir() else f"no folder {folder}"
    raise ValueError(f"{pattern} fits no file (looked in {Path.cwd()}); {holds}")


def natural(path: str) -> list[tuple[int, int, str]]:
    """A sorting key by which part 10 comes after part 9."""
    pieces = re.split(r"(\d+)", path)
    return [(1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces]
