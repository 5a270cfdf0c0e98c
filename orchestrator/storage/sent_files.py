"""Which files of a folder that a setting names travel: to a cluster, or into the storage.

Hidden files are no rows and no model, and often hold keys. A link may lead to anything of this
machine, so that what lies outside the folder travels only where it is a file of rows or of a
model by its name, or one of the hub's cache, whose folders are made of links.
"""

from __future__ import annotations

import os
from pathlib import Path

from jobs.data.file_forms import form_of

WEIGHTS = (".safetensors", ".model")
"""Endings of a base model's files; its others are JSON, as rows may be."""


def files_of(path: Path) -> list[Path]:
    """A file, or the files of a folder that travel with it, in order."""
    if not path.is_dir():
        return [path]
    root = path.resolve()
    seen: set[Path] = set()
    found: list[Path] = []
    for folder, folders, names in os.walk(path, followlinks=True):
        place = Path(folder)
        is_new = place.resolve() not in seen  # a link may lead to a folder around itself
        seen.add(place.resolve())
        folders[:] = [name for name in folders if is_new and not is_hidden(name)]
        files = [place / name for name in names if is_new and not is_hidden(name)]
        found += [file for file in files if file.is_file() and may_leave(file, root)]
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one of those that `ls` does not show, or that Python has made."""
    return name.startswith(".") or name == "__pycache__"


def may_leave(file: Path, root: Path) -> bool:
    """Whether a file is the folder's own, or one that it is known to link to."""
    target = file.resolve()
    if target.is_relative_to(root) or form_of(file) is not None or file.suffix in WEIGHTS:
        return True
    caches = [parent.parent for parent in root.parents if parent.name == "snapshots"]
    return any(target.is_relative_to(cache / "blobs") for cache in caches)
