"""The neighbours that a registered version carries: its rows as JSONL, of which the index is made
again when the version is loaded.

task.json says under `neighbours` how many are shown, how they stand, and what the file holds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.data.corpus import Corpus
from jobs.data.nearest_rows import RowIndex, answer_of
from jobs.data.neighbour_prompt import FORM, question_of
from jobs.data.neighbours import nearest_rows, neighbour, with_neighbours
from jobs.data.readers import Row, normalise
from jobs.files import manifest
from jobs.neighbour_settings import Neighbours

FILE = "neighbours.jsonl"


def write_rows(
    corpus: Corpus, settings: Neighbours, folder: Path, licence: str | None
) -> dict[str, Any]:
    """Write the rows that may be shown into a version's folder; returns what task.json says of
    them.
    """
    rows = nearest_rows(corpus).shown
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
    }


class VersionRows:
    """The rows of a version, ready to be looked up."""

    def __init__(self, settings: Neighbours, rows: Sequence[Row], instruction: str) -> None:
        self.settings = settings
        self.instruction = instruction
        self.index = RowIndex(rows)

    def shown(self, row: Row) -> Row:
        """A row that is asked, with its neighbours."""
        return self.all_shown([row], left_out=False)[0]

    def all_shown(self, rows: Sequence[Row], left_out: bool) -> list[Row]:
        """Many rows, with their neighbours. With `left_out` the same question is none: the rows are
        other ones than those that the version was judged on, and may lie among its own.
        """
        asked = [self.with_instruction(row) for row in rows]
        nearest = self.index.nearest(asked, self.settings.count, left_out)
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
    file = folder / str(told["file"])
    settings = Neighbours(count=told["count"], order=told["order"])
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        rows = [as_row(json.loads(line), file) for line in lines if line]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}, the rows that the version shows, cannot be read ({error}); fetch the version "
            "again"
        ) from error
    return VersionRows(settings, rows, task.get("instruction") or "")


def as_row(told: dict[str, str], file: Path) -> Row:
    """A line of the file as a training row."""
    question, answer = told["question"], told["answer"]
    messages = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    )
    return Row(messages, normalise(question), str(file))
