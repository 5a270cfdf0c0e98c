"""Which files a trial's data is in: the ones that are named, and train, valid and test in a folder,
under the names that people give them.

Leaves reading them to readers.py, and what is done with the rows to corpus.py.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from jobs.config import Data
from jobs.data.file_forms import EXTENSIONS, form_of, holds_rows, is_arrow_folder, stem_of
from jobs.data.locations import is_pattern, matching, natural
from jobs.data.records import unknown_form

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
    files = Files()
    for name, source in data.sources.items():
        if source.path is not None:
            read = try_files(f"data.sources.{name}.path", source.path, "train", problems)
            files.paths[f"sources.{name}"] = read
    named = {
        split for split, path in (("valid", data.valid), ("test", data.test)) if path is not None
    }
    lone_may_train = not files.paths
    files_by_split = (
        splits_at(data.folder, named, lone_may_train, files.notes, problems)
        if data.folder is not None
        else {}
    )
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
        if path is not None:
            files.paths[split] = try_files(f"data.{split}", path, split, problems)
        elif split in files_by_split:
            files.paths[split] = files_by_split[split]
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
        left = [path for path in entries(data.folder) if not is_used(path, used)]
        problems += misnamed(left, missing)
        unused_names = [
            path.name + ("/" if path.is_dir() else "") for path in left if not is_about(path)
        ]
        listed = ", ".join(unused_names[:8]) + (
            f" and {len(unused_names) - 8} more" if len(unused_names) > 8 else ""
        )
        files.notes += [f"not read in {data.folder}: {listed}"] if unused_names else []
    return files


def is_used(path: Path, used: Collection[str]) -> bool:
    """Whether an entry of a folder is among the files that are read, or holds one of them."""
    place = os.path.abspath(path)
    return place in used or any(one.startswith(place + os.sep) for one in used)


def try_files(setting: str, path: str, split: str, problems: list[str]) -> list[str]:
    """The files that a setting names; what is wrong with it goes to `problems`."""
    try:
        return files_at(path, split)
    except ValueError as error:
        problems.append(f"{setting}: {error}")
        return []
    except OSError as error:  # a folder that may not be entered, a name that is too long
        problems.append(f"{setting}: {path} cannot be read: {error.strerror}")
        return []


def files_at(path: str, split: str) -> list[str]:
    """The files of rows that a path stands for: a file, those that fit a pattern, or those of a
    folder: where it holds splits, the wanted one. Raises ValueError where there are none.
    """
    if is_pattern(path):
        return matching(path)
    place = Path(path).expanduser()
    builder = place.parent / "build.py"
    if not place.exists() and builder.is_file():
        raise ValueError(
            f"{path} is not here: these rows are not handed on, but built where they are used; "
            f"run: python {shlex.quote(shortest(builder))}"
        )
    if not place.is_dir() or is_arrow_folder(place) or form_of(place) is not None:
        return [path]
    problems: list[str] = []
    by_split = find_splits(path, (), problems)
    if problems:
        raise ValueError("; ".join(problem.removeprefix("data.folder: ") for problem in problems))
    if by_split and split not in by_split:
        raise ValueError(
            f"{path} holds {' and '.join(sorted(by_split))}, and no {split} rows; name the file"
        )
    files = by_split.get(split) or rows_in(place)
    if not files:
        raise ValueError(f"{path} holds no file of rows; it holds {list_names(path)}")
    return files


def shortest(file: Path) -> str:
    """A file as seen from the working directory, where it lies below that."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def rows_in(folder: Path) -> list[str]:
    """All files of rows in a folder, in order; the folder itself where it is one table."""
    if is_arrow_folder(folder):
        return [str(folder)]
    files = [str(path) for path in entries(str(folder)) if holds_rows(path) and not is_about(path)]
    return sorted(files, key=natural)


def splits_at(
    folder: str,
    named: Collection[str],
    lone_may_train: bool,
    notes: list[str],
    problems: list[str],
) -> dict[str, list[str]]:
    """The files of train, valid and test at data.folder, which may also be one file, a pattern, or
    a folder around the folder of the splits. With `lone_may_train` the only file of rows trains,
    whatever it is called.
    """
    place = Path(folder).expanduser()
    if is_pattern(folder):
        return grouped(try_files("data.folder", folder, "train", problems))
    if is_arrow_folder(place) or (place.is_file() and form_of(place) is not None):
        return {"train": [folder]}
    splits = find_splits(folder, named, problems)
    if splits or problems or not lone_may_train:
        return splits
    inner = [path for path in entries(folder) if path.is_dir() and "train" in splits_of(path)]
    if len(inner) == 1:
        notes.append(f"data.folder: read from {inner[0]}")
        return find_splits(str(inner[0]), named, problems)
    lone = [path for path in rows_in(place) if not split_words(Path(path))]
    if len(lone) == 1 and not inner:
        notes.append(f"data.folder: trained on {lone[0]}, the only file of rows")
        return {"train": lone}
    return splits


def splits_of(folder: Path) -> set[str]:
    """The splits that a folder holds, by the names in it."""
    return {split_of(path)[0] for path in entries(str(folder)) if split_of(path) is not None}  # type: ignore[index]


def grouped(files: list[str]) -> dict[str, list[str]]:
    """Files by the split that their names say, where one of them says train; else all train."""
    by_split: dict[str, list[str]] = {}
    for file in files:
        split = split_of(Path(file))
        by_split.setdefault(split[0] if split is not None else "", []).append(file)
    if "train" not in by_split or "" in by_split:
        return {"train": files} if files else {}
    return by_split


def split_words(path: Path) -> set[str]:
    """The names of splits that stand in a file's name, among other words."""
    words = set(re.split(r"[^a-z]+", path.name.lower()))
    return {word for names in NAMES.values() for word in names if word in words}


def entries(folder: str) -> list[Path]:
    """What a folder holds, hidden things left out."""
    return sorted(
        path for path in Path(folder).expanduser().iterdir() if not path.name.startswith(".")
    )


def is_about(path: Path) -> bool:
    """Whether a file is a text about the data, as each data set has."""
    return (
        re.match(
            r"(readme|licen[cs]e|notice|citation|changelog|checksums|sha256|dataset_infos?\.json"
            r"|dataset_dict\.json|state\.json)",
            path.name.lower(),
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


def find_splits(folder: str, named: Collection[str], problems: list[str]) -> dict[str, list[str]]:
    """The files of train, valid and test in a folder, where there are any. Two files for one of
    them are a problem, as neither can be preferred, unless they are numbered parts of one, or the
    setting for it names another file anyway.
    """
    directory = Path(folder).expanduser()
    if not directory.is_dir():
        if form_of(directory) is not None:
            problems.append(f"data.folder: {folder} does not exist (looked in {Path.cwd()})")
            return {}
        if directory.is_file():
            problems.append(f"data.folder: {unknown_form(directory)}")
            return {}
        problems.append(f"data.folder: {folder} is not a folder (looked in {Path.cwd()})")
        return {}
    files_by_split: dict[str, list[Path]] = {}
    for path in entries(folder):
        is_split_folder = path.is_dir() and form_of(path) is None
        shard_name = split_of(path) if form_of(path) is not None or is_split_folder else None
        if shard_name is None or shard_name[0] in named:
            continue
        if is_split_folder and not rows_in(path):
            problems.append(
                f"data.folder: {path} holds no file of rows; it holds {list_names(str(path))}; put "
                "rows into it, or remove it"
            )
            continue
        if not is_split_folder and not path.is_file() and not path.is_fifo():
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
        in_order = sorted(paths, key=lambda path: (split_of(path) or ("", 0))[1] or 0)
        splits[split] = [
            file for path in in_order for file in (rows_in(path) if path.is_dir() else [str(path)])
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
