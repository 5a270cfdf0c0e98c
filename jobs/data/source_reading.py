"""How the files of each use are read, and what is told of them: settings of the data and of one
source come together here.
"""

from __future__ import annotations

import re

from jobs.config import Data
from jobs.data.bad_rows import skipped_note
from jobs.data.messages import quote
from jobs.data.readers import Reading, Table
from jobs.data.shape_remedies import NO_ANSWER

SOURCES = "sources."


def reading_of(data: Data, use: str) -> Reading:
    """How the files of "valid", "test" or "sources.NAME" are read."""
    source = data.sources.get(use.removeprefix(SOURCES)) if use.startswith(SOURCES) else None
    if source is None:
        return Reading(data.columns, tuple(data.label_names), data.bad_rows)
    return Reading(
        source.columns if source.columns.settings else data.columns,
        tuple(source.label_names or data.label_names),
        data.bad_rows,
        source.where,
    )


def told(table: Table) -> str:
    """What the files of one use were read as: of several forms the one with most columns."""
    return max(table.told, key=len, default="")


def unanswered(problem: str, paths: dict[str, list[str]], tables: dict[str, Table]) -> str:
    """A problem as it is told: of a held-out file without a column of answers, beside training rows
    that have one, what to do about it.
    """
    use = next((use for use in ("valid", "test") if problem.startswith(f"data.{use}: ")), None)
    trained = [one for one, table in tables.items() if one.startswith(SOURCES) and table.rows]
    if use is None or not trained or not re.search(NO_ANSWER, problem):
        return problem
    answer = told(tables[trained[0]]).rpartition("-> ")[2].partition(",")[0]
    file, training = paths[use][0], paths[trained[0]][0]
    column = quote([answer]) if answer else "the answers"
    return (
        f"data.{use}: {file} lacks {column}, which the training rows have, and rows without an "
        f"answer judge nothing; move it elsewhere, or read the training file alone: "
        f"data.folder={training} (job=new: --from {training}), from which held-out rows are cut"
    )


def idle_problems(data: Data, tables: dict[str, Table]) -> list[str]:
    """Settings that no file follows."""
    problems = []
    readings = {use: reading_of(data, use) for use in tables}
    if data.columns.settings and not any(one.columns == data.columns for one in readings.values()):
        problems.append("data.columns has no effect: every source has columns of its own")
    settings = {"data.label_names": tuple(data.label_names)} | {
        f"data.sources.{name}.label_names": tuple(source.label_names)
        for name, source in data.sources.items()
    }
    for setting, names in settings.items():
        if not names:
            continue
        uses = [use for use, one in readings.items() if one.label_names == names]
        if setting.startswith("data.sources."):
            uses = [f"{SOURCES}{setting.split('.')[2]}"]
        if not any(tables[use].labels["named"] for use in uses if use in tables):
            problems.append(
                f"{setting} has no effect: no answer is a whole number; leave it out, or name the "
                "column with the numbers: data.columns.completion=COLUMN"
            )
    return problems


def column_notes(tables: dict[str, Table]) -> list[str]:
    """Which columns nothing is made of."""
    notes = []
    for use, table in tables.items():
        named = [f"{quote([name])} ({count:,})" for name, count in sorted(table.unused.items())]
        listed = ", ".join(named[:12]) + (f" and {len(named) - 12} more" if len(named) > 12 else "")
        notes += (
            [
                f"{use.removeprefix(SOURCES)}: columns not used, with the number of their rows: "
                f"{listed}"
            ]
            if named
            else []
        )
    return notes


def source_notes(data: Data, tables: dict[str, Table]) -> list[str]:
    """What of the rows was left out, and which labels have no name."""
    notes = []
    bare = [use for use, table in tables.items() if table.labels["bare"]]
    fractional = [use for use in bare if tables[use].labels["fractional"]]
    if bare:
        trained = "are trained as such"
        if fractional:
            answers = [row.answer for row in tables[fractional[0]].rows]
            example = next((one for one in answers if "." in one), answers[0])
            trained = f"are trained with their fraction, such as {quote([example])}"
        notes.append(
            f"{', '.join(use.removeprefix(SOURCES) for use in bare)}: labels are whole numbers "
            f"without names, and {trained}; data.label_names=[...] gives them names, from 0"
        )
    for use, table in tables.items():
        name = use.removeprefix(SOURCES)
        if table.num_left_out:
            total = len(table.rows) + table.num_left_out
            notes.append(f"{name}: {len(table.rows):,} of {total:,} rows fit where")
        notes += skipped_note(name, data.bad_rows, table.skipped)
        if table.num_open:
            notes.append(
                f"{name}: {table.num_open:,} conversations go on after their last answer; that is "
                "left out"
            )
    return notes
