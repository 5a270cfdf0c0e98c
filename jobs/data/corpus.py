"""The data of a trial: which rows train, which are held out, and the token ids of an example.

Owns the splits, the rule that no prompt stands on both sides, and the token ids of prompt and
answer. Reading files is left to readers.py, what a row is as text to rendering.py, the chat
template and the tokenizer to chat_template.py, the order of the examples to mixture.py. Imports
neither torch nor transformers: the plan uses it too.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jobs.check_settings import Checks
from jobs.config import Data
from jobs.data.conversations import groups_of
from jobs.data.locations import hub_notes, local
from jobs.data.paths import data_paths, with_paths
from jobs.data.readers import Row, Table, read_table
from jobs.data.row_selection import deduplicated, sample
from jobs.data.shares import weights_of
from jobs.data.source_reading import (
    column_notes,
    idle_problems,
    reading_of,
    source_notes,
    told,
    unanswered,
)
from jobs.data.splits import find_files
from jobs.data.twin_groups import leaks, with_twins

CUT_SHARE = 0.1
MOST_CUT = {
    "valid": 400,
    "test": 1000,
}  # more rows cost every trial time and narrow the interval little


@dataclass
class Corpus:
    """Rows by use, after everything that must not be trained on is out."""

    sources: dict[str, list[Row]]
    """Training rows by the name of their source, in alphabetical order of the names."""
    valid: list[Row]
    test: list[Row]
    notes: list[str] = field(default_factory=list)
    """What was cut and what was dropped, and why, in words."""
    chats: list[str] = field(default_factory=list)
    """Files whose rows hold messages, by their use: the instruction is not put before those."""
    uses: list[str] = field(default_factory=list)
    """All files, likewise: "valid", "test" and "sources.NAME"."""
    shapes: dict[str, str] = field(default_factory=dict)
    """What the files of each use were read as, in words."""
    columns: list[str] = field(default_factory=list)
    """Columns that no prompt, answer or slice is made of, in any file."""
    leaked: list[Row] = field(default_factory=list)
    """Training rows that were dropped because their very prompt is held out."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What others have found out about these rows, by who has."""

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 over the rows of "valid", "test" and each "train/SOURCE", as hexadecimal
        digits.
        """
        rows_by_split = {f"train/{name}": rows for name, rows in self.sources.items()} | {
            "valid": self.valid,
            "test": self.test,
        }
        return {name: digest(rows) for name, rows in rows_by_split.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all digests: the same rows under the same names give the same one, wherever
        the files lie.
        """
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()


def load_corpus(data: Data) -> Corpus:
    """Read all files of `data`, cut what has no file, and drop training rows whose prompt is held
    out.

    Held-out rows are chosen by a hash of their prompt, so neither the weights of the sources nor
    the order of the rows matters. Paths are relative to the working directory. Raises ValueError
    with one line per problem.
    """
    problems: list[str] = []
    named = data
    try:
        data = with_paths(data, local)
    except OSError as error:
        raise ValueError(f"data cannot be fetched: {error}") from error
    try:
        files = find_files(data, problems)
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise ValueError(f"data.folder: {data.folder} cannot be read: {error.strerror}") from None
    uses = [use for use in files.paths if use.startswith("sources.")]
    weights = weights_of(data.sources, {use[8:]: 1 for use in uses})
    if weights and not any(weights.values()):
        problems.insert(
            0,
            "data.sources: every weight is 0, so there is nothing to train on; give one source a "
            "weight above 0",
        )
    with no_collection():
        tables = {use: try_read(use, paths, data, problems) for use, paths in files.paths.items()}
    problems += synthetic_held_out(tables)
    problems = [unanswered(problem, files.paths, tables) for problem in problems]
    if problems:
        raise ValueError("\n".join(problems))
    if problems := idle_problems(data, tables):
        raise ValueError("\n".join(problems))
    read = same_mode({use: table.rows for use, table in tables.items()})
    held_out = {split: read.pop(split) for split in ("valid", "test") if split in read}
    corpus = Corpus(
        {use.removeprefix("sources."): read[use] for use in sorted(read)},
        held_out.get("valid", []),
        held_out.get("test", []),
    )
    corpus.uses = list(tables)
    corpus.chats = [use for use, table in tables.items() if table.chat]
    corpus.shapes = {use: told(table) for use, table in tables.items()}
    corpus.notes += hub_notes(data_paths(named).values())
    corpus.notes += files.notes + column_notes(tables) + source_notes(data, tables)
    take_once(corpus, data)
    corpus.columns = sorted({name for table in tables.values() for name in table.unused})
    groups = groups_of([corpus.test, corpus.valid, *corpus.sources.values()])
    decontaminate(corpus, groups)
    check_left(corpus, held_out)
    missing = [split for split in ("valid", "test") if split not in held_out]
    split_off_held_out(corpus, groups, missing, data.checks)
    check_left(corpus, held_out)
    take_some(corpus, data)
    return corpus


def take_once(corpus: Corpus, data: Data) -> None:
    """Leave repeated rows out of the sources that ask for it."""
    for name, rows in corpus.sources.items():
        if name in data.sources and data.sources[name].deduplicate:
            corpus.sources[name] = deduplicated(rows)
            num_repeated = len(rows) - len(corpus.sources[name])
            corpus.notes.append(
                f"{name}: {num_repeated:,} of {len(rows):,} rows dropped, the same prompt and "
                "answer stand before (deduplicate)"
            )


def take_some(corpus: Corpus, data: Data) -> None:
    """Take as many rows of a source as it says. What is held out was set aside before: it is the
    same however many are taken.
    """
    for name, rows in corpus.sources.items():
        source = data.sources.get(name)
        if source is None or source.rows is None:
            continue
        corpus.sources[name] = sample(rows, source.rows, source.rows_seed)
        corpus.notes.append(
            f"{name}: {source.rows:,} of {len(rows):,} rows taken, chosen by their content and "
            f"rows_seed={source.rows_seed}"
            if source.rows < len(rows)
            else f"{name}: data.sources.{name}.rows={source.rows}, and there are "
            f"{len(rows):,}: all are taken"
        )


@contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's search for circles of objects: rows come by the ten thousand, hold none and
    stay, so it would look at all of them again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def same_mode(read: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """All rows are asked for in one way: with room for a reasoning when any of them shows one,
    since in use nobody can tell them apart.
    """
    if not any(row.thinking for rows in read.values() for row in rows):
        return read
    return {
        use: [dataclasses.replace(row, thinking=True) for row in rows] for use, rows in read.items()
    }


def check_left(corpus: Corpus, held_out: Container[str]) -> None:
    """Raise ValueError when a source, or a validation split that was read from a file, has lost its
    last row.
    """
    empty = [f"data.sources.{name}" for name, rows in corpus.sources.items() if not rows]
    empty += ["data.valid"] if "valid" in held_out and not corpus.valid else []
    if empty:
        raise ValueError(
            "\n".join(f"{name} has no rows left: {'; '.join(corpus.notes)}" for name in empty)
        )


def try_read(use: str, paths: list[str], data: Data, problems: list[str]) -> Table:
    """The rows of one or more files; what is wrong with them goes to `problems`, so that all are
    read before anyone is told.
    """
    merged: Table | None = None
    for path in paths:
        try:
            table = read_table(path, data.instruction, data.slices, reading_of(data, use))
        except ValueError as error:
            problems.append(f"data.{use}: {error}")
            continue
        if merged is not None and merged.shape != table.shape:
            problems.append(
                f"data.{use}: {path} holds {table.shape}, the files before it {merged.shape}; give "
                "each its own source"
            )
        merged = table if merged is None else merged.joined(table)
    return merged or Table([])


def synthetic_held_out(tables: dict[str, Table]) -> list[str]:
    """Problems with held-out files that hold rows which were made: a score is about real ones."""
    problems = []
    for split in ("valid", "test"):
        rows = [row for row in tables[split].rows if row.synthetic] if split in tables else []
        if rows:
            problems.append(
                f'data.{split}: {rows[0].place}: a synthetic row, it has "provenance" '
                f"({len(rows):,} of {len(tables[split].rows):,} rows do); models are judged on "
                "real rows alone, so move these to a training source"
            )
    return problems


def decontaminate(corpus: Corpus, groups: dict[str, str]) -> None:
    """Drop validation rows that stand in test, and training rows that stand in either: a score must
    be about unseen prompts, and about conversations of which no part was seen.
    """
    corpus.valid = drop(corpus, "valid", corpus.valid, corpus.test, "test", groups)
    held_out = [*corpus.test, *corpus.valid]
    keys = {row.key for row in held_out}
    for name, rows in corpus.sources.items():
        corpus.leaked += [row for row in rows if row.key in keys]
        corpus.sources[name] = drop(corpus, name, rows, held_out, "valid or test", groups)


def drop(
    corpus: Corpus,
    name: str,
    rows: list[Row],
    held_out: list[Row],
    where: str,
    groups: dict[str, str],
) -> list[Row]:
    """`rows` without those whose prompt, or part of whose conversation, stands in `others`; how
    many is said in the corpus's notes.
    """
    remaining, num_same = without(rows, {row.key for row in held_out})
    remaining, num_related = without(
        remaining, {groups.get(row.key, row.key) for row in held_out}, groups
    )
    for count, reason in (
        (num_same, "their prompt stands"),
        (num_related, "their conversation stands"),
    ):
        corpus.notes += (
            [f"{name}: {count:,} of {len(rows):,} rows dropped, {reason} in {where}"]
            if count
            else []
        )
    return remaining


def without(
    rows: list[Row], keys: Container[str], groups: dict[str, str] | None = None
) -> tuple[list[Row], int]:
    """The rows with another key than `keys`, or whose group has another, and how many had one of
    them.
    """
    group_of = groups or {}
    remaining = [row for row in rows if group_of.get(row.key, row.key) not in keys]
    return remaining, len(rows) - len(remaining)


def split_off_held_out(
    corpus: Corpus, groups: dict[str, str], missing: list[str], checks: Checks
) -> None:
    """Take about a tenth of the training rows for each missing split; all rows of one prompt, and
    of one conversation, go to one side. So do near-twins, where a run would be refused for those
    that the cut has put on both.
    """
    if not missing:
        return
    together = ", conversations kept whole" if groups else ""
    cut = chosen_groups(corpus, groups, missing)
    if "leakage" not in checks.off:
        rows = [row for source in corpus.sources.values() for row in source]
        ids = {
            split: {id(row) for row in rows if in_split(row, groups, chosen)}
            for split, chosen in cut.items()
        }
        if leaks(rows, ids, checks.leakage_share):
            twins = with_twins(rows, groups)
            with suppress(ValueError):  # too few are different: the check says so
                cut, groups = chosen_groups(corpus, twins, missing), twins
                together += ", near-twins kept together"
    for split, chosen in cut.items():
        rows = [row for source in corpus.sources.values() for row in source]
        setattr(corpus, split, [row for row in rows if in_split(row, groups, chosen)])
        origin = []
        by_source(corpus, split)
        for name, source in corpus.sources.items():
            corpus.sources[name], num_moved = without(source, chosen, groups)
            num_synthetic = sum(
                row.synthetic and groups.get(row.key, row.key) in chosen for row in source
            )
            num_moved -= num_synthetic
            origin += [f"{name} {num_moved:,}"] if num_moved else []
            if num_synthetic:
                corpus.notes.append(
                    f"{name}: {num_synthetic:,} of {len(source):,} synthetic rows dropped, their "
                    f"prompt stands in {split}"
                )
        size = len(getattr(corpus, split))
        by = f"by a hash of the prompt{together} ({', '.join(origin)})"
        corpus.notes.append(f"{split}: {size:,} rows cut from the training rows {by}")


def in_split(row: Row, groups: dict[str, str], chosen: Container[str]) -> bool:
    """Whether a row is cut into a split: no synthetic one is."""
    return not row.synthetic and groups.get(row.key, row.key) in chosen


def chosen_groups(
    corpus: Corpus, groups: dict[str, str], missing: list[str]
) -> dict[str, set[str]]:
    """Which groups of rows are cut for each missing split."""
    rows = [row for source in corpus.sources.values() for row in source if not row.synthetic]
    counts = Counter(groups.get(row.key, row.key) for row in rows)
    if len(counts) < len(missing) + 1:
        kind = "different prompts" if not groups else "different conversations"
        if any(row.synthetic for source in corpus.sources.values() for row in source):
            kind += " of real rows (synthetic ones are never held out)"
        raise ValueError(
            f"data: {len(counts)} {kind} are too few to cut {' and '.join(missing)} from; "
            f"add rows, or name files in {' and '.join(f'data.{split}' for split in missing)}"
        )
    order = sorted(counts, key=lambda key: (hashlib.sha256(key.encode()).digest(), key))
    cut = {}
    for split in missing:
        target = min(MOST_CUT[split], max(1, round(CUT_SHARE * len(rows))))
        cut[split] = choose(order, counts, target)
        order = [key for key in order if key not in cut[split]]
    return cut


def by_source(corpus: Corpus, split: str) -> None:
    """Let the rows of a split that are still among the training rows say which source they are of,
    unless a column of their own does.
    """
    names = {id(row): name for name, rows in corpus.sources.items() for row in rows}
    rows = [
        row if row.source else dataclasses.replace(row, source=names[id(row)])
        for row in getattr(corpus, split)
    ]
    setattr(corpus, split, rows)


def choose(order: list[str], counts: Counter[str], target: int) -> set[str]:
    """Groups in `order` whose rows together come to at most `target`; the smallest alone if every
    one has more rows than that.
    """
    chosen = set()
    size = 0
    for key in order:
        if size + counts[key] <= target:
            chosen.add(key)
            size += counts[key]
    return chosen or {min(order, key=lambda key: counts[key])}


def digest(rows: Iterable[Row]) -> str:
    """SHA-256 over the messages of all rows, and the functions that they may call, in order."""
    contents = [(row.tools, row.messages) if row.tools else row.messages for row in rows]
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
