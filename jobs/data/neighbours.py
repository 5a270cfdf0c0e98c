"""Which training rows stand before which question: looked up once for all rows of a corpus, and one
question at a time where a registered version is asked.

Shown are the nearest rows of different answers. Training rows that are near-twins of a held-out row
are never shown, since that would be its answer; the others are shown whatever their source's
weight. What was looked up is kept in the cache, under a name that follows from all rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import random
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.data.conversations import groups_of
from jobs.data.corpus import Corpus
from jobs.data.embeddings import EmbeddingModel, open_model
from jobs.data.near_duplicates import twin_pairs
from jobs.data.nearest_rows import MeaningVectors, RowIndex, answer_of, text_of
from jobs.data.neighbour_prompt import Neighbour, question_of
from jobs.data.readers import Row
from jobs.data.similarity import spread
from jobs.files.cache import cache_folder
from jobs.files.drafts import drafted
from jobs.neighbour_settings import MOST_NEIGHBOURS, Neighbours

VERSION = 2
"""Goes up when the same rows give other neighbours: kept ones are then looked up again."""
ORDERS = 4
"""A row's neighbours stand in so many orders before they repeat: it bounds what is kept of them."""
MOST_KEPT = 20
"""Looked-up corpora that are kept in the cache; the oldest go."""
MANY_ROWS = 3_000
"""From so many training rows on it takes seconds."""
MEMO = "neighbours"
LOCK_SECONDS = 600


class NearestRows:
    """The rows of a corpus with those that may be shown before them."""

    def __init__(self, corpus: Corpus, shown: Any, nearest: dict[str, Any]) -> None:
        self.corpus = corpus
        rows = training_rows(corpus)
        self.shown = [rows[place] for place in shown.tolist()]
        """Training rows that may be shown, in the order of the index."""
        self.nearest = nearest
        """By split ("valid", "test", "train/SOURCE"): int32 (rows, MOST_NEIGHBOURS) into `shown`,
        the nearest first, -1 for none.
        """

    def neighbours(self, split: str, row: int, count: int) -> list[Neighbour]:
        """The nearest of a row, the nearest first."""
        places = [place for place in self.nearest[split][row][:count].tolist() if place >= 0]
        return [neighbour(self.shown[place], rank) for rank, place in enumerate(places)]

    def held_out(self, split: str, settings: Neighbours) -> list[Row]:
        """The validation or the test rows, with their neighbours as they stand when a model is
        asked.
        """
        rows = self.corpus.valid if split == "valid" else self.corpus.test
        return [
            with_neighbours(row, self.neighbours(split, index, settings.count), settings)
            for index, row in enumerate(rows)
        ]

    def training(self, source: str, index: int, settings: Neighbours, seed: int, turn: int) -> Row:
        """A training row with its neighbours. `turn` tells the orders of a shuffled one apart."""
        row = self.corpus.sources[source][index]
        nearest = self.neighbours(f"train/{source}", index, settings.count)
        if settings.order != "shuffled":
            return with_neighbours(row, nearest, settings)
        random.Random(f"{seed}/{source}/{index}/{turn}").shuffle(nearest)
        return dataclasses.replace(row, neighbours=tuple(nearest))


def neighbour(row: Row, rank: int) -> Neighbour:
    """A row as it is shown."""
    return Neighbour(question_of(row.context, row.instruction), answer_of(row), rank)


def with_neighbours(row: Row, nearest: Sequence[Neighbour], settings: Neighbours) -> Row:
    """A row that is asked, with its neighbours. Those that were shuffled in training stand with the
    nearest last, right before the question.
    """
    ordered = nearest if settings.order == "nearest_first" else nearest[::-1]
    return dataclasses.replace(row, neighbours=tuple(ordered))


def training_rows(corpus: Corpus) -> list[Row]:
    """All training rows, source by source."""
    return [row for rows in corpus.sources.values() for row in rows]


def nearest_rows(
    corpus: Corpus, embedding: str | None = None, say: Callable[[str], None] = lambda text: None
) -> NearestRows:
    """The rows that may be shown before those of a corpus: computed once, and kept in the cache.
    `embedding` is data.neighbours.embedding; `say` is told when that takes a while. Raises
    ValueError where none may be shown, and for an embedding model that cannot be used.
    """
    name = f"{MEMO}:{embedding or ''}"
    if name not in corpus.memo:
        model = None if embedding is None else open_model(embedding)
        corpus.memo[name] = NearestRows(corpus, *looked_up(corpus, model, say))
    return corpus.memo[name]


def looked_up(
    corpus: Corpus, model: EmbeddingModel | None, say: Callable[[str], None]
) -> tuple[Any, dict[str, Any]]:
    """Places of the rows that may be shown among all training rows, and the nearest of all rows."""
    file = cache_folder() / "neighbours" / f"{digest(corpus, model)}.npz"
    if (arrays := read(file, corpus)) is not None:
        return arrays
    with locked(file):  # several processes of a sweep ask for the same at once
        if (arrays := read(file, corpus)) is None:
            count = sum(map(len, corpus.sources.values()))
            if count >= MANY_ROWS:
                say(f"looking up the neighbours of {count:,} training rows, once for these rows")
            arrays = look_up(corpus, model)
            keep(file, *arrays)
    return arrays


def look_up(corpus: Corpus, model: EmbeddingModel | None) -> tuple[Any, dict[str, Any]]:
    """See `looked_up`."""
    import numpy as np

    rows = training_rows(corpus)
    twins = {id(row) for _, row in twin_pairs([*corpus.valid, *corpus.test], rows)}
    places = [place for place in spread([text_of(r) for r in rows]) if id(rows[place]) not in twins]
    if not places:
        raise ValueError(
            "data.neighbours: no training row can be shown, since each is a near-twin of a "
            "validation or test row; set data.neighbours.count to 0"
        )
    indexed = [rows[place] for place in places]
    vectors = None if model is None else MeaningVectors(indexed, model)
    index = RowIndex(indexed, groups_of([rows]), vectors)
    nearest = {
        f"train/{name}": index.nearest(source, MOST_NEIGHBOURS, left_out=True)
        for name, source in corpus.sources.items()
    }
    for split, asked in (("valid", corpus.valid), ("test", corpus.test)):
        nearest[split] = index.nearest(asked, MOST_NEIGHBOURS, left_out=False)
    return np.asarray(places, dtype=np.int32), nearest


def digest(corpus: Corpus, model: EmbeddingModel | None) -> str:
    """SHA-256 over all that decides the neighbours; the instruction is no part of it."""
    splits = {f"train/{name}": rows for name, rows in corpus.sources.items()}
    splits |= {"valid": corpus.valid, "test": corpus.test}
    libraries = [importlib.metadata.version(name) for name in ("scikit-learn", "scipy", "numpy")]
    by = None if model is None else model.digest
    told = hashlib.sha256(json.dumps([VERSION, MOST_NEIGHBOURS, libraries, by]).encode())
    for name, rows in splits.items():
        texts = [
            (question_of(row.context, row.instruction), answer_of(row), row.key) for row in rows
        ]
        told.update(json.dumps([name, texts]).encode())
    return told.hexdigest()


def read(file: Path, corpus: Corpus) -> tuple[Any, dict[str, Any]] | None:
    """What is kept, None where there is nothing that can be used."""
    import zipfile

    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    shown = arrays.pop("shown", None)
    sizes = {f"train/{name}": len(rows) for name, rows in corpus.sources.items()}
    sizes |= {"valid": len(corpus.valid), "test": len(corpus.test)}
    if shown is None or {name: len(array) for name, array in arrays.items()} != sizes:
        return None
    return shown, arrays


@contextlib.contextmanager
def locked(file: Path) -> Any:
    """One process at a time, where the cache can be written; elsewhere each looks up for itself."""
    from filelock import FileLock, Timeout

    lock = FileLock(file.with_suffix(".lock"), timeout=LOCK_SECONDS)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, Timeout, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def keep(file: Path, shown: Any, nearest: dict[str, Any]) -> None:
    """Write what was looked up into the cache, whole or not at all; a cache that cannot be written
    costs time only.
    """
    import numpy as np

    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with drafted(file, uuid.uuid4().hex) as draft, draft.open("wb") as target:
            np.savez(target, shown=shown, **nearest)
        kept = sorted(file.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
            old.with_suffix(".lock").unlink(missing_ok=True)
