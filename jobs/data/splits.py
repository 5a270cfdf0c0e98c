"""Which files a trial's data is in: the ones that are named, and train, valid and test in a folder,
under the names that people give them.

Leaves reading them to rows.py, and what is done with the rows to data.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from jobs.config import Data
from jobs.data.file_forms import EXTENSIONS, PACKED, form_of

NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
"""What the splits are called; the first is what messages say."""
SHARD = r"(?:[-_.]?(\d+)(?:[-_]of[-_](\d+))?)?"
"""What may follow where a split lies in several files: train-00000-of-00002, test_2, valid1."""


@dataclass
class Files:
    """What is read, and what is not."""

    paths: dict[str, list[str]] = field(default_factory=dict)
    """By use: "valid", "test" and "sources.NAME". Splits without a file are left out; one in
    several files has them in order.
    """
    notes: list[str] = field(default_factory=list)
    """Files of the folder that are not read, in words."""


def find_files(data: Data, problems: list[str]) -> Files:
    """The files that the settings name, and those of a folder. What cannot be read, or could be
    meant to be, goes to `problems`.
    """
    files = Files(
        {
            f"sources.{name}": [source.path]
            for name, source in data.sources.items()
            if source.path is not None
        }
    )
    named = {
        split for split, path in (("valid", data.valid), ("test", data.test)) if path is not None
    }
    files_by_split = find_splits(data.folder, named, problems) if data.folder is not None else {}
    if "train" in files_by_split:
        if "sources.train" in files.paths:
            problems.append(
                f'data.sources.train: {files_by_split["train"][0]} already is the source "train"; '
                "give the "
                "other one another name"
            )
        files.paths.setdefault("sources.train", files_by_split["train"])
    elif len(files.paths) < max(len(data.sources), 1) and not problems:
        problems.append(
            f"data.folder: {data.folder} has no train.jsonl, train.csv or train.parquet; it holds "
            f"{list_names(data.folder)}"
        )
    for split, path in (("valid", data.valid), ("test", data.test)):
        if path is not None or split in files_by_split:
            files.paths[split] = [path] if path is not None else files_by_split[split]
    if data.folder is not None and Path(data.folder).expanduser().is_dir():
        missing = [split for split in ("valid", "test") if split not in files.paths]
        missing += (
            ["train"] if "train" not in files_by_split and data.sources.keys() <= {"train"} else []
        )
        used = {
            os.path.abspath(os.path.expanduser(path))
            for paths in files.paths.values()
            for path in paths
        }
        left = [path for path in entries(data.folder) if os.path.abspath(path) not in used]
        problems += misnamed(left, missing)
        unused_names = [
            path.name + ("/" if path.is_dir() else "") for path in left if not is_about(path)
        ]
        listed = ", ".join(unused_names[:8]) + (
            f" and {len(unused_names) - 8} more" if len(unused_names) > 8 else ""
        )
        files.notes += [f"not read in {data.folder}: {listed}"] if unused_names else []
    return files


def entries(folder: str) -> list[Path]:
    """What a folder holds, hidden things left out."""
    return sorted(
        path for path in Path(folder).expanduser().iterdir() if not path.name.startswith(".")
    )


def is_about(path: Path) -> bool:
    """Whether a file is a text about the data, as each data set has."""
    return (
        re.match(
            r"(readme|licen[cs]e|notice|citation|changelog|checksums|sha256)", path.name.lower()
        )
        is not None
    )


def split_of(path: Path) -> tuple[str, int | None, int | None] | None:
    """(split, number of the part, number of parts) of a file's name in which nothing but a split
    stands; None for any other.
    """
    stem = stem_of(path)
    for split, names in NAMES.items():
        match = re.fullmatch(f"(?:{'|'.join(names)}){SHARD}", stem)
        if match:
            shard, num_shards = (
                None if digits is None else int(digits) for digits in match.groups()
            )
            return split, shard, num_shards
    return None


def stem_of(path: Path) -> str:
    """A file's name without its endings, in lower case."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.removesuffix(form) if (form := Path(name).suffix) in EXTENSIONS else name


def find_splits(folder: str, named: Collection[str], problems: list[str]) -> dict[str, list[str]]:
    """The files of train, valid and test in a folder, where there are any. Two files for one of
    them are a problem, as neither can be preferred, unless they are numbered parts of one, or the
    setting for it names another file anyway.
    """
    directory = Path(folder).expanduser()
    if not directory.is_dir():
        problems.append(f"data.folder: {folder} is not a folder (looked in {Path.cwd()})")
        return {}
    files_by_split: dict[str, list[Path]] = {}
    for path in entries(folder):
        shard_name = split_of(path) if form_of(path) is not None else None
        if shard_name is None or shard_name[0] in named:
            continue
        if not path.is_file() and not path.is_fifo():
            problems.append(
                f"data.folder: {path} is {'a folder' if path.is_dir() else 'a link to no file'}; "
                "it must be a file"
            )
            continue
        files_by_split.setdefault(shard_name[0], []).append(path)
    splits = {}
    for split, paths in files_by_split.items():
        problem = shard_problem(split, paths)
        if problem is not None:
            problems.append(f"data.folder: {problem}")
            continue
        splits[split] = [
            str(path)
            for path in sorted(paths, key=lambda path: (split_of(path) or ("", 0))[1] or 0)
        ]
    return splits


def shard_problem(split: str, paths: list[Path]) -> str | None:
    """Why several files are not the numbered parts of one split, or None."""
    shards = [(split_of(path) or ("", None, None))[1:] for path in paths]
    shown = " and ".join(str(path) for path in paths[:3]) + (
        f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    )
    shard_indices = [shard for shard, _ in shards if shard is not None]
    if len(paths) > 1 and (
        len(shard_indices) < len(paths)
        or len(set(shard_indices)) < len(shard_indices)
        or len({form_of(path) for path in paths}) > 1
    ):
        choice = "" if split == "train" else f"name the one to read: data.{split}={paths[0]}, or "
        return (
            f"{shown} both hold {split} rows; remove one, or {choice}number the parts of one file: "
            f"{split}-1, {split}-2"
        )
    totals = {total for _, total in shards if total is not None}
    if len(totals) > 1:
        return f"{shown} are parts of different files"
    lacking = len(totals) == 1 and len(paths) < min(totals)
    return f"{shown}: {len(paths)} of {min(totals)} parts; fetch the others" if lacking else None


def list_names(folder: str | None) -> str:
    """The files of a folder, for a message."""
    directory = Path(folder or ".").expanduser()
    names = sorted(entry.name for entry in directory.iterdir())
    inner = next(
        (
            path
            for path in entries(str(directory))
            if path.is_dir() and any((split_of(p) or " ")[0] == "train" for p in entries(str(path)))
        ),
        None,
    )
    hint = f"; {inner} holds some, take data.folder={inner}" if inner is not None else ""
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing") + hint


ABOUT_DATA = (
    ".py",
    ".log",
    ".md",
    ".sh",
    ".yaml",
    ".yml",
    ".ipynb",
    ".sha256",
    ".md5",
    ".idx",
    ".lock",
)
"""Endings of what is not rows itself."""


def misnamed(left: list[Path], missing: Collection[str]) -> list[str]:
    """Files that are not read and whose names speak of a split that has no file: it must not be cut
    from other rows instead.
    """
    problems = []
    for path in left:
        form = form_of(path)
        name = path.name.lower()
        words = (
            re.split(r"[^a-z]+", name)
            if form is not None
            else [re.sub(SHARD + "$", "", name.partition(".")[0])]
        )
        split = next((split for split in missing if set(NAMES[split]) & set(words)), None)
        if (
            split is None
            or name.endswith(ABOUT_DATA)
            or (form is not None and split_of(path) is not None)
        ):  # told by find_splits
            continue
        setting = "data.sources.train.path" if split == "train" else f"data.{split}"
        if path.is_dir():
            remedy = (
                f"is a folder; put its files beside it, as {split}-1.jsonl and so on, or name one: "
                f"{setting}=FILE"
            )
        elif form is None:
            remedy = (
                f"is not read; write it as {split}.jsonl, or as one of {', '.join(EXTENSIONS[1:])}"
            )
        else:
            advice = "" if split == "train" else f", or name it: {setting}={path}"
            remedy = f"is not read; rename it to {split}{form}{advice}"
        problems.append(f"data.folder: {path} {remedy}")
    return problems
