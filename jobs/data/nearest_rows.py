"""The index of training rows, and the nearest ones with different answers of many rows at once.

Implementation notes
--------------------
The columns of a block of similarities are sorted by answer, so that `maximum.reduceat` gives the
best row of each answer; of these the most similar answers are taken. A row that is asked for
itself lies in the index too: it, rows of the same prompt or conversation, and near-duplicates (see
near_duplicates.nearly_same) are left out, and the next best row of their answer takes their place.

Each similarity is a sum over the question's n-grams in their order, whatever block it is computed
in, so that a question gives the same neighbours alone and among others; those of an embedding
model are rounded for that. Of equally similar rows the first one is taken, however many are asked
for. scipy's products run outside Python's lock: threads share the blocks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobs.data.embeddings import EmbeddingModel
from jobs.data.near_duplicates import form_of, nearly_same, words_of
from jobs.data.neighbour_prompt import question_of
from jobs.data.readers import Row, normalise
from jobs.data.similarity import BATCH_CELLS, fit, transform

MOST_THREADS = 8
DECIMALS = 5
"""Of cosines of an embedding model, whose last digits depend on what is computed beside them."""


def text_of(row: Row) -> str:
    """What of a row is compared: what the user asks at last, case folded. Of a bare prompt that is
    what the nearest-row baseline compares.
    """
    return normalise(question_of(row.context, row.instruction))


def answer_of(row: Row) -> str:
    """A row's answer, as two are compared."""
    return str(row.answer or "").strip()


class LetterVectors:
    """Rows as counts of their letters (TF-IDF, see similarity.py), and others in the same terms."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.vectorizer, self.features = fit([text_of(row) for row in rows])

    def of(self, rows: Sequence[Row]) -> Any:
        """Vectors of other rows, sparse (rows, terms)."""
        return transform(self.vectorizer, [text_of(row) for row in rows])

    def columns(self, order: Any) -> Any:
        """The rows' vectors as columns, in an order."""
        return self.features[order].T.tocsr()

    @staticmethod
    def cosines(vectors: Any, columns: Any) -> Any:
        """Dense (vectors, columns)."""
        return (vectors @ columns).toarray()


class MeaningVectors:
    """Rows as vectors of an embedding model, and others by the same model. `vectors` are those of
    the rows, where they are known.
    """

    def __init__(self, rows: Sequence[Row], model: EmbeddingModel, vectors: Any = None) -> None:
        self.model = model
        self.texts = [question_of(row.context, row.instruction).strip() for row in rows]
        self.features = model.encode(self.texts) if vectors is None else vectors

    @cached_property
    def places(self) -> dict[str, int]:
        """Where a text stands among the rows: it is not computed again."""
        return {text: place for place, text in enumerate(self.texts)}

    def of(self, rows: Sequence[Row]) -> Any:
        """Vectors of other rows, float32 (rows, width)."""
        import numpy as np

        texts = [question_of(row.context, row.instruction).strip() for row in rows]
        told = np.empty((len(texts), self.features.shape[1]), dtype=np.float32)
        unknown = [index for index, text in enumerate(texts) if text not in self.places]
        known = [index for index, text in enumerate(texts) if text in self.places]
        told[known] = self.features[[self.places[texts[index]] for index in known]]
        if unknown:
            told[unknown] = self.model.encode([texts[index] for index in unknown])
        return told

    def columns(self, order: Any) -> Any:
        """The rows' vectors as columns, in an order."""
        import numpy as np

        return np.ascontiguousarray(self.features[order].T)

    @staticmethod
    def cosines(vectors: Any, columns: Any) -> Any:
        """Dense (vectors, columns)."""
        import numpy as np

        return np.round(vectors @ columns, DECIMALS)


@dataclass(frozen=True)
class AskedRow:
    """A training row that is to be shown others than itself."""

    group: str
    answer: str
    words: list[str]


class RowIndex:
    """Training rows by what they ask; `vectors` are theirs, by their letters where none are given.
    Raises ValueError without rows.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        groups: dict[str, str] | None = None,
        vectors: MeaningVectors | None = None,
    ) -> None:
        import numpy as np

        if not rows:
            raise ValueError("data.neighbours: there are no training rows to show")
        self.groups = groups or {}
        self.rows = list(rows)
        self.members: dict[str, list[int]] = {}
        """Rows by group."""
        for place, row in enumerate(rows):
            self.members.setdefault(self.group(row), []).append(place)
        self.words = [words_of(row) for row in rows]
        self.known_words = dict(zip((row.key for row in rows), self.words, strict=True))
        self.form = form_of(self.words)
        self.vectors: LetterVectors | MeaningVectors = vectors or LetterVectors(rows)
        answers = np.asarray([answer_of(row) for row in rows], dtype=object)
        labels, codes = np.unique(answers, return_inverse=True)
        self.order: Any = np.argsort(codes, kind="stable")
        """Rows sorted by answer, and within one as they stood."""
        self.starts: Any = np.searchsorted(codes[self.order], np.arange(len(labels)))
        self.columns: Any = np.argsort(self.order)
        self.codes: Any = codes
        """Of each row's answer."""
        self.transposed = self.vectors.columns(self.order)

    def group(self, row: Row) -> str:
        """What a row shares with rows of the same prompt or conversation."""
        return self.groups.get(row.key, row.key)

    @cached_property
    def ends(self) -> Any:
        """Behind the last column of each answer."""
        import numpy as np

        return np.append(self.starts[1:], len(self.rows))

    def nearest(self, asked: Sequence[Row], count: int, left_out: bool) -> Any:
        """Indices of the nearest rows of different answers, the nearest first: int32 (asked,
        count), -1 where there are no more that have anything in common with a row. `left_out` says
        that the rows may lie in the index, and must not be shown themselves.
        """
        import numpy as np

        told = np.full((len(asked), count), -1, dtype=np.int32)
        if not asked:
            return told
        vectors = self.vectors.of(asked)
        rows = max(1, BATCH_CELLS // len(self.rows))
        starts = range(0, len(asked), rows)

        def fill(start: int) -> None:
            similar = self.vectors.cosines(vectors[start : start + rows], self.transposed)
            for offset, row in enumerate(asked[start : start + rows]):
                itself = self.asked(row) if left_out else None
                chosen = self.best(similar[offset], itself, count)
                told[start + offset, : len(chosen)] = chosen

        with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(fill, starts):
                pass
        return told

    def asked(self, row: Row) -> AskedRow:
        """A row that must not be shown itself."""
        words = self.known_words.get(row.key)
        return AskedRow(self.group(row), answer_of(row), words_of(row) if words is None else words)

    def best(self, similar: Any, asked: AskedRow | None, count: int) -> list[int]:
        """The nearest rows of different answers, from the similarities (N,) of one row by
        column.
        """
        import numpy as np

        if asked is not None:
            similar[self.columns[self.members.get(asked.group, [])]] = -1.0
        tops = np.maximum.reduceat(similar, self.starts)
        more = min(len(tops), count + 8)
        floor = float(np.partition(tops, -more)[-more]) if more < len(tops) else 0.0
        level = self.first_at(floor, tops, similar, asked, count) if floor > 0 else []
        nearest = np.flatnonzero((tops > floor) & (tops > 0))
        chosen = sorted([*self.best_of_each(nearest, similar, asked), *level])
        if asked is not None and floor > 0 and self.fell(chosen, count, floor):
            taken = {int(self.codes[row]) for _, row in level}
            others = set(np.flatnonzero((tops <= floor) & (tops > 0)).tolist()) - taken
            chosen = sorted([*chosen, *self.best_of_each(others, similar, asked)])
        return [row for _, row in chosen[:count]]

    def first_at(
        self, value: float, tops: Any, similar: Any, asked: AskedRow | None, count: int
    ) -> list[tuple[float, int]]:
        """Negative similarity and index of the first rows of different answers whose best
        similarity is this one: as many as may be shown, and no more are looked at.
        """
        import numpy as np

        found: dict[int, int] = {}
        for row in map(int, np.sort(self.order[np.flatnonzero(similar == value)])):
            label = int(self.codes[row])
            if tops[label] > value or label in found:
                continue
            if asked is None or not self.alike(row, asked):
                found[label] = row
            if len(found) == count:
                break
        return [(-value, row) for row in found.values()]

    def best_of_each(
        self, labels: Any, similar: Any, asked: AskedRow | None
    ) -> list[tuple[float, int]]:
        """Negative similarity and index of the nearest row of each answer, the nearest first."""
        found = (self.best_of(int(label), similar, asked) for label in labels)
        return sorted((-one[0], one[1]) for one in found if one is not None)

    def fell(self, chosen: list[tuple[float, int]], count: int, floor: float) -> bool:
        """Whether so much was left out that answers beyond those that were looked at may be
        nearer.
        """
        return len(chosen) < count or -chosen[count - 1][0] < floor

    def best_of(self, label: int, similar: Any, asked: AskedRow | None) -> tuple[float, int] | None:
        """Similarity and index of the nearest row of one answer that may be shown."""
        import numpy as np

        start, end = int(self.starts[label]), int(self.ends[label])
        stretch = similar[start:end]
        while True:
            place = int(np.argmax(stretch))
            value = float(stretch[place])
            if value <= 0:
                return None
            row = int(self.order[start + place])
            if asked is None or not self.alike(row, asked):
                return value, row
            stretch[place] = -1.0

    def alike(self, place: int, asked: AskedRow) -> bool:
        """Whether a row of the index is a near-duplicate of one that is asked for."""
        same = answer_of(self.rows[place]) == asked.answer
        return nearly_same(self.words[place], asked.words, same, self.form)
