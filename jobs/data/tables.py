"""Tables: files that name their columns, CSV, Parquet and Arrow.

Owns which columns are read, and what such a file says of its labels. What the columns mean is
left to readers.py.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.data.bad_rows import UnreadableLine
from jobs.data.file_forms import STATE, is_arrow_folder
from jobs.data.messages import quote, without_nulls
from jobs.files.json_types import Json, JsonObject

if TYPE_CHECKING:
    import pyarrow

Place = str
"""Where a record stands in its file: "line 3", or "row 3"."""
ROWS_AT_ONCE = 2048
SEPARATORS = (",", "\t", ";", "|")
SAID = re.compile(r'"?sep=([^\r\n"])"?(?:\r\n|\r|\n)')
"""A first line in which Excel says what separates fields."""
MOST_COMPARED = 20
"""Records on which separators are tried where the first line holds several."""
COMPARED_CHARACTERS = 200_000
MOST_ROWS_OF_DATA = 200
"""Records among which a first line's fields are looked for, where it may be none of names."""


@dataclass
class Records:
    """The records of a file."""

    read: Callable[[Collection[str] | None], Iterator[tuple[Place, Json | UnreadableLine]]]
    """Gives them with their places; of a binary file these columns only, None for all."""
    names: list[str] | None = None
    """The columns, where the file names them once for all."""
    unused: Callable[[Collection[str]], Counter[str]] | None = None
    """Counts by column, of those that are not read, the rows in which it holds something; None
    where records have all columns anyway.
    """
    label_names: dict[str, list[str]] = field(default_factory=dict)
    """What the numbers of a column stand for, by column, where the file says so: they are read as
    these names.
    """
    headless: Callable[[], bool] | None = None
    """Looks whether what was taken for the names of the columns may be a row."""


class ShortRow(dict[str, Any]):
    """A line of a table in text that has fewer fields than there are columns."""


def csv_records(path: Path, text: str, delimiter: str) -> Records:
    """The rows of a table in text, as dictionaries of texts. Fields that are missing at the end of
    a line are null.
    """
    csv.field_size_limit(
        2**31 - 1
    )  # the module's own limit, 131,072 characters, is for nobody's sake
    start = len(text) - len(text.lstrip("\r\n"))
    said = SAID.match(text, start)
    if said is not None:
        start = said.end()
    skipped = len(text[:start].splitlines())
    delimiter = said[1] if said is not None else separator(text[start:], delimiter)
    reader = csv.DictReader(io.StringIO(text[start:], newline=""), strict=True, delimiter=delimiter)
    try:
        columns = list(reader.fieldnames or [])
    except csv.Error as error:
        raise ValueError(f"{path}, line {skipped + 1}: broken CSV: {error}") from None
    check_twice(path, columns)
    names = reader.fieldnames = named(columns)

    def read(columns: Collection[str] | None) -> Iterator[tuple[Place, Json]]:
        line = skipped + 1
        try:
            for record in reader:
                line = skipped + reader.line_num
                if None in record:
                    raise ValueError(
                        f"{path}, line {line}: more fields than columns; put texts that hold a "
                        "separator in double quotes"
                    )
                is_short = None in record.values()
                yield f"line {line}", ShortRow(record) if is_short else record
        except csv.Error as error:
            raise ValueError(
                f"{path}, after line {line}: broken CSV: {error}; check the quotes, or use .jsonl"
            ) from None

    return Records(read, list(names), headless=lambda: is_headless(text[start:], delimiter))


def separator(text: str, usual: str) -> str:
    """What separates the fields of a table's first line: what is usual for the file, unless that
    leaves it whole and another does not.
    """
    first = next(iter(text.splitlines()), "")
    found = [mark for mark in (usual, *SEPARATORS) if mark in first]
    if not found or len({*found}) == 1 or fields_with(text, found[0]):
        return found[0] if found else usual
    most = max(found, key=lambda mark: fields_with(text, mark))
    return most if fields_with(text, most) else found[0]


def fields_with(text: str, mark: str) -> int:
    """How many fields each of the first records has with this separator; 0 where not all of them
    have equally many.
    """
    reader = csv.reader(io.StringIO(text[:COMPARED_CHARACTERS], newline=""), delimiter=mark)
    try:
        counts = {len(record) for record in itertools.islice(reader, MOST_COMPARED) if record}
    except csv.Error:
        return 0
    return counts.pop() if len(counts) == 1 and counts != {1} else 0


def is_headless(text: str, delimiter: str) -> bool:
    """Whether the first line of a table in text may be a row, not the names of columns: one of its
    fields stands in its column again.
    """
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        first, *others = itertools.islice(records, MOST_ROWS_OF_DATA)
    except (csv.Error, ValueError):
        return False
    return any(
        field.strip() and field == other
        for record in others
        for field, other in zip(first, record, strict=False)
    )


def headless_note(records: Records) -> str:
    """What to do with a table whose first line may be a row; nothing for any other."""
    if records.headless is None or not records.headless():
        return ""
    return (
        "; the first line looks like a row: if it is one, write a line with the names of the "
        "columns above it"
    )


def named(names: Sequence[str]) -> list[str]:
    """The names of a table's columns, those without one by their places."""
    return [
        name if name and name.strip() else f"column {place} without a name"
        for place, name in enumerate(names, start=1)
    ]


def check_twice(path: Path, names: Iterable[str]) -> None:
    """Raise ValueError when a column stands in a table twice: neither can be preferred."""
    names = list(names)
    twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if twice:
        raise ValueError(
            f"{path} has {quote(twice)} as the name of {names.count(twice[0])} columns; rename or "
            "remove the others"
        )


@contextmanager
def readable(path: Path, form: str) -> Iterator[None]:
    """Raise ValueError for what Arrow says of a file that it cannot read."""
    import pyarrow  # 0.3 s, and needed for these formats only

    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} holds a text that is not UTF-8 ({bytes(error.object[:20])!r}); write it as "
            "UTF-8"
        ) from None
    except (pyarrow.ArrowException, OSError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as {form}: {line}") from None


def parquet_records(path: Path) -> Records:
    """The rows of a Parquet file."""
    import pyarrow.parquet

    with readable(path, "parquet"):
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow

    def batches(columns: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
        wanted = None if columns is None else list(columns)
        yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted)

    return arrow_table(path, "parquet", schema, batches)


def arrow_records(path: Path) -> Records:
    """The rows of an Arrow file, or of a folder of them that the library datasets has saved."""
    files = files_of_folder(path) if is_arrow_folder(path) else [path]
    with readable(path, "Arrow"):
        schema = opened_arrow(files[0])[0]

    def batches(columns: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
        for file in files:
            for batch in opened_arrow(file)[1]:
                yield batch if columns is None else batch.select(list(columns))

    return arrow_table(path, "Arrow", schema, batches)


def files_of_folder(path: Path) -> list[Path]:
    """The Arrow files of a folder, in order. Raises ValueError for one that is missing."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        moved = state.get("_indices_files") or state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path / STATE} cannot be read ({type(error).__name__}: {error}); save the data set "
            "again with save_to_disk"
        ) from None
    if moved:
        raise ValueError(
            f"{path} keeps the order of its rows apart; save it again with "
            "dataset.flatten_indices().save_to_disk(...)"
        )
    missing = [name for name in names if not (path / name).is_file()]
    if missing or not names:
        raise ValueError(
            f"{path} lacks {quote(missing) if missing else 'files of rows'}, which its {STATE} "
            "names; copy the whole folder, or save the data set again"
        )
    return [path / name for name in names]


def opened_arrow(path: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
    """Schema and batches of an Arrow file, in either of its two formats."""
    import pyarrow

    source = pyarrow.memory_map(str(path))
    try:
        reader = pyarrow.ipc.open_file(source)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        return reader.schema, batches
    except pyarrow.ArrowInvalid:
        stream = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
        return stream.schema, iter(stream)


def arrow_table(
    path: Path,
    form: str,
    schema: pyarrow.Schema,
    batches: Callable[[Sequence[str] | None], Iterator[pyarrow.RecordBatch]],
) -> Records:
    """The records of a table in Arrow's columns. `batches` reads some of them, None all."""
    names = list(schema.names)
    check_twice(path, names)
    label_names = labels_of(schema)

    def read(columns: Collection[str] | None) -> Iterator[tuple[Place, Json]]:
        wanted = [name for name in names if name and (columns is None or name in columns)]
        row_number = 0
        with readable(path, form):
            for batch in batches(wanted):
                for record in batch.to_pylist(maps_as_pydicts="strict"):
                    row_number += 1
                    yield f"row {row_number}", with_names(path, row_number, record, label_names)

    def unused(columns: Collection[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        with readable(path, form):
            for place, (name, told) in enumerate(zip(names, named(names), strict=True)):
                if name in columns:
                    continue
                if names.count(name) > 1:
                    counts[told] += column_at(batches(None), place)
                    continue
                for batch in batches([name]):
                    counts[told] += len(batch) - batch.column(0).null_count
        return counts

    return Records(read, named(names), unused, label_names)


def column_at(batches: Iterator[pyarrow.RecordBatch], place: int) -> int:
    """In how many rows a column holds something, by its place: several may have no name."""
    return sum(len(batch) - batch.column(place).null_count for batch in batches)


def labels_of(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """The names that the library datasets has written beside the numbers of a column."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(text)["info"]["features"]
        labels = {name: one.get("names") for name, one in features.items() if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        name: [str(label) for label in names]
        for name, names in labels.items()
        if isinstance(names, list) and names
    }


def with_names(
    path: Path, row_number: int, record: JsonObject, label_names: Mapping[str, Sequence[str]]
) -> JsonObject:
    """A record with its labels by their names, and without the nulls that a table adds inside its
    columns; a label of -1 is none.
    """
    for name, value in record.items():
        if isinstance(value, list | dict):
            record[name] = without_nulls(value)
    for name, names in label_names.items():
        value = record.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if value >= len(names):
            raise ValueError(
                f'{path}, row {row_number}: "{name}" is {value}, and the file names '
                f"{len(names)} labels, from 0; write the file again with all names"
            )
        record[name] = names[value] if value >= 0 else None
    return record
