"""Which files a trial's data is in: the ones that are named, and train, valid and test in a folder.

Leaves reading them to rows.py, and what is done with the rows to data.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from jobs.config import Data
from jobs.rows import EXTENSIONS

OTHER_NAMES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "eval": "valid", "testing": "test"}
"""What others call the splits."""


def find_files(data: Data, problems: list[str]) -> dict[str, str]:
    """Path by use: "valid", "test" and "sources.NAME". Splits without a file are left out."""
    files = {f"sources.{name}": source.path for name, source in data.sources.items() if source.path is not None}
    found = find_folder_files(data.folder, problems) if data.folder is not None else {}
    if "train" in found:
        if "sources.train" in files:
            problems.append(f'data.sources.train: {found["train"]} already is the source "train"; give the other one another name')
        files.setdefault("sources.train", found["train"])
    elif len(files) < max(len(data.sources), 1) and not problems:
        problems.append(f"data.folder: {data.folder} has no train.jsonl, train.csv or train.parquet; it holds {list_names(data.folder)}")
    for split, path in (("valid", data.valid), ("test", data.test)):
        if path is not None or split in found:
            files[split] = path if path is not None else found[split]
    used = {os.path.abspath(path) for path in files.values()}
    missing = [split for split in ("valid", "test") if split not in files]
    missing += ["train"] if "train" not in found and data.sources.keys() <= {"train"} else []
    problems += misnamed(data.folder, missing, used) if data.folder is not None else []
    return files


def find_folder_files(folder: str, problems: list[str]) -> dict[str, str]:
    """Path of train, valid and test in a folder, where there is one. Two files for one of them is a problem: neither can be preferred."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        problems.append(f"data.folder: {folder} is not a folder (looked in {Path.cwd()})")
        return {}
    found = {}
    for split in ("train", "valid", "test"):
        paths = [str(place / (split + extension)) for extension in EXTENSIONS if (place / (split + extension)).is_file()]
        odd = [path for extension in EXTENSIONS if os.path.lexists(path := place / (split + extension)) and not path.is_file()]
        problems += [f"data.folder: {path} is {'a folder' if path.is_dir() else 'a link to no file'}; it must be a file" for path in odd]
        if len(paths) > 1:
            problems.append(f"data.folder: {' and '.join(paths)} both hold {split} rows; remove one")
        if paths:
            found[split] = paths[0]
    return found


def list_names(folder: str | None) -> str:
    """The files of a folder, for a message."""
    names = sorted(entry.name for entry in Path(folder or ".").expanduser().iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"


def misnamed(folder: str, missing: Collection[str], used: Collection[str]) -> list[str]:
    """Files in a folder that look like a split which has no file, under a name that is not read."""
    found = []
    place = Path(folder).expanduser()
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        stem, extension = path.stem.lower(), path.suffix.lower()
        split = OTHER_NAMES.get(stem, stem)
        whole = path.name == split + extension  # no file: find_folder_files has said so
        if extension in EXTENSIONS and split in missing and not whole and str(path.absolute()) not in used:
            remedy = f"rename it to {split}{extension}" + ("" if split == "train" else f", or name it: data.{split}={path}")
            found.append(f"data.folder: {path} is not read; {remedy}")
    return found
