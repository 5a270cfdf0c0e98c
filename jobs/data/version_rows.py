"""The neighbours that a registered version carries: its rows as JSONL, of which the index is made
again when the version is loaded; where an embedding model says which are similar, their vectors and
that model too.

task.json says under `neighbours` how many are shown, how they stand, and what the files hold.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.data import embeddings
from jobs.data.corpus import Corpus
from jobs.data.embeddings import EmbeddingModel, open_model
from jobs.data.nearest_rows import MeaningVectors, RowIndex, answer_of
from jobs.data.neighbour_prompt import FORM, question_of
from jobs.data.neighbours import nearest_rows, neighbour, with_neighbours
from jobs.data.readers import Row, normalise
from jobs.files import manifest
from jobs.neighbour_settings import Neighbours

FILE = "neighbours.jsonl"
VECTORS = "neighbours.safetensors"


def write_rows(
    corpus: Corpus, settings: Neighbours, folder: Path, licence: str | None
) -> dict[str, Any]:
    """Write the rows that may be shown into a version's folder; returns what task.json says of
    them. Raises ValueError for an embedding model that cannot be used.
    """
    rows = nearest_rows(corpus, settings.embedding).shown
    with (folder / FILE).open("w", encoding="utf-8") as stream:
        for row in rows:
            question = question_of(row.context, row.instruction)
            told = {"question": question, "answer": answer_of(row)}
            stream.write(json.dumps(told, ensure_ascii=False) + "\n")
    return {
        **dataclasses.asdict(settings),
        "form": FORM,
        "file": FILE,
        "rows": len(rows),
        "sha256": manifest.digest(folder / FILE),
        "licence": licence or "not stated beside the rows' files",
        **written_vectors(rows, settings, folder),
    }


def written_vectors(rows: Sequence[Row], settings: Neighbours, folder: Path) -> dict[str, Any]:
    """Write what an embedding model makes of the rows, and the model; returns what task.json says
    of them, nothing where there is none.
    """
    if settings.embedding is None:
        return {}
    from safetensors.numpy import save_file

    model = open_model(settings.embedding)
    save_file({"vectors": MeaningVectors(rows, model).features}, folder / VECTORS)
    model.copy_to(folder / embeddings.FOLDER)
    return {"vectors_sha256": manifest.digest(folder / VECTORS), "embedding_sha256": model.digest}


class VersionRows:
    """The rows of a version, ready to be looked up."""

    def __init__(
        self,
        settings: Neighbours,
        rows: Sequence[Row],
        instruction: str,
        vectors: MeaningVectors | None = None,
    ) -> None:
        self.settings = settings
        self.instruction = instruction
        self.index = RowIndex(rows, vectors=vectors)

    def shown(self, row: Row) -> Row:
        """A row that is asked, with its neighbours."""
        return self.all_shown([row], left_out=False)[0]

    def all_shown(self, rows: Sequence[Row], left_out: bool) -> list[Row]:
        """Many rows, with their neighbours. With `left_out` the same question is none, whatever
        stands before it: the rows are other ones than those that the version was judged on, and may
        lie among its own.
        """
        asked = [self.with_instruction(row) for row in rows]
        looked_up = [
            dataclasses.replace(row, key=normalise(question_of(row.context, row.instruction)))
            for row in asked
        ]
        nearest = self.index.nearest(looked_up, self.settings.count, left_out)
        return [
            with_neighbours(
                row,
                [
                    neighbour(self.index.rows[int(place)], rank)
                    for rank, place in enumerate(places)
                    if place >= 0
                ],
                self.settings,
            )
            for row, places in zip(asked, nearest, strict=True)
        ]

    def with_instruction(self, row: Row) -> Row:
        """A row that knows what of its text is the task's instruction."""
        opening = f"{self.instruction}\n" if self.instruction else ""
        if row.instruction or not opening:
            return row
        texts = [str(message.get("content") or "") for message in row.context]
        starts = any(text.startswith(opening) for text in texts)
        return dataclasses.replace(row, instruction=opening) if starts else row


def rows_of_version(folder: Path, task: dict[str, Any]) -> VersionRows | None:
    """The rows of a version, None for one that shows none. Raises ValueError for rows that cannot
    be used.
    """
    told = task.get("neighbours")
    if told is None:
        return None
    if told.get("form") != FORM:
        raise ValueError(
            f"{folder / 'task.json'} shows neighbours in the form {told.get('form')}, and this "
            f"program knows {FORM}; load the version with the code that it carries"
        )
    if told.get("embedding"):
        embeddings.check_installed(str(told["embedding"]))
    try:
        file = folder / str(told["file"])
        settings = Neighbours(
            count=told["count"], order=told["order"], embedding=told.get("embedding")
        )
        check_digest(file, told["sha256"])
        lines = file.read_text(encoding="utf-8").split("\n")
        rows = [as_row(json.loads(line), file) for line in lines if line]
        vectors = None if settings.embedding is None else read_vectors(folder, told, rows)
        return VersionRows(settings, rows, task.get("instruction") or "", vectors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"the rows that the version in {folder} shows cannot be read ({reason}); fetch the "
            "version again"
        ) from error


def check_digest(file: Path, expected: str) -> None:
    """Raise ValueError for a file that is not what was written."""
    if manifest.digest(file) != expected:
        raise ValueError(f"{file.name} is not what was written: its SHA-256 differs")


def read_vectors(folder: Path, told: dict[str, Any], rows: Sequence[Row]) -> MeaningVectors:
    """The vectors of a version's rows, with the model that makes those of questions."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_digest(folder / VECTORS, told["vectors_sha256"])
    try:
        vectors = load_file(folder / VECTORS)["vectors"]
    except SafetensorError as error:
        raise ValueError(f"{VECTORS}: {error}") from error
    model = EmbeddingModel(folder / embeddings.FOLDER, str(told["embedding"]))
    problem = embeddings.problem_of(model.folder)
    if problem or model.digest != told["embedding_sha256"]:
        raise ValueError(f"{embeddings.FOLDER}/ {problem or 'is not what was written'}")
    model.load()
    return MeaningVectors(rows, model, vectors)


def copy_rows(version: Path, folder: Path) -> None:
    """Put what a version looks its neighbours up in into another folder; nothing where it shows
    none.
    """
    for name in (FILE, VECTORS):
        if (version / name).exists():
            shutil.copyfile(version / name, folder / name)
    if (version / embeddings.FOLDER).exists():
        shutil.copytree(version / embeddings.FOLDER, folder / embeddings.FOLDER)


def as_row(told: dict[str, str], file: Path) -> Row:
    """A line of the file as a training row."""
    question, answer = told["question"], told["answer"]
    if not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError(f"a line holds {question!r} and {answer!r}, which are no texts")
    messages = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    )
    return Row(messages, normalise(question), str(file))
