"""Records: what stands in a data file, one after the other, whatever form the file has.

Owns forms, compression and text encodings. What a record means is left to rows.py, which files
there are to sources.py.
"""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import json
import lzma
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jobs.data.file_forms import EXTENSIONS, PACKED, form_of
from jobs.data.messages import quote, without_nulls
from jobs.files.json_types import Json, JsonObject

SHAPES = ("prompt", "completion", "messages")
"""Columns of the two formats of a row."""
PROVENANCE = "provenance"
"""The column of rows that were made, not collected: by which teacher, recipe and seed."""
READ = (*SHAPES, "tools", PROVENANCE)
"""Columns that have a meaning. All others are counted as not used."""
COLUMNS = '"prompt" and "completion", or "messages"'
MAGIC = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}
"""How a compressed file begins, and what unpacks it."""
MOST_PACKED = 3
"""Times that a file may have been packed, one around the other."""
FOREIGN = {
    b"PAR1": "a Parquet file; give it a name that ends in .parquet",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard; unpack it with: zstd -d {path}",
    b"PK\x03\x04": "a ZIP archive or a workbook; unpack it, or save the sheet as CSV",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"]\0\0": "packed with LZMA; unpack it with: xz --format=lzma -dc {path} > NEW",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"SQLite format 3\0": "an SQLite database; write its rows as CSV or JSON",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run: git lfs pull",
}
"""How files begin that are not text, in words."""
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""The first that fits counts: a mark of UTF-32 begins with one of UTF-16."""


def check_file(path: Path) -> None:
    """Raise ValueError unless `path` is a file that can be read, naming the most similar file there
    is.
    """
    if form_of(path) is None:
        ending = path.suffix or "a file without extension"
        raise ValueError(
            f"{path}: cannot read {ending}; use one of {', '.join(EXTENSIONS)}, the text ones also "
            f"with {', '.join(PACKED)}"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file")
    if path.is_symlink() and not path.exists():
        raise ValueError(
            f"{path} is a link to {path.readlink()}, where there is no file; mend the link or name "
            "the file itself"
        )
    if not path.exists():
        raise ValueError(f"{path} does not exist; {describe_neighbours(path)}")


def describe_neighbours(path: Path) -> str:
    """Half a sentence with what stands where `path` was looked for."""
    if not path.parent.is_dir():
        return (
            f"neither does its folder (looked in {Path.cwd()})"
            if not path.is_absolute()
            else "neither does its folder"
        )
    names = sorted(entry.name for entry in path.parent.iterdir() if form_of(entry) is not None)
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return (
        f"{path.parent} holds {', '.join(names[:8])}"
        if names
        else f"{path.parent} holds no {', '.join(EXTENSIONS)} file"
    )


def read_records(
    path: Path, unused: Counter[str], every: bool = False, keep: Sequence[str] = ()
) -> Iterator[tuple[str, Json]]:
    """(place, what stands there) for each record of a file, blank lines left out; a place is like
    "line 3", or "row 3" where a file has no lines. Columns of a Parquet file that are not read are
    counted in `unused`, by the rows in which they hold something; those in `keep` are read beside
    them, and with `every` column all are, whatever their names.

    Raises ValueError with the file, the place and the remedy.
    """
    form = form_of(path)
    if form == ".parquet":
        return read_parquet(path, unused, every, keep)
    text = read_text(path)
    if form in (".csv", ".tsv"):
        return read_csv(path, text, "\t" if form == ".tsv" else ",", every)
    return read_json(path, text)


def read_text(path: Path) -> str:
    """The file as text, unpacked, without a byte order mark."""
    try:
        content = unpacked(path, path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    format_name = next(
        (words for start, words in FOREIGN.items() if content.startswith(start)), None
    )
    if format_name is not None:
        raise ValueError(f"{path} is {format_name.format(path=shlex.quote(str(path)))}")
    encoding = next(
        (name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8-sig"
    )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        if b"\0" in content and encoding == "utf-8-sig":
            guess = f"is no text, it begins with {content[:8]!r}"
            if content.count(b"\0") > len(content) // 4:
                guess = "it looks like UTF-16"
            raise ValueError(
                f"{path}, line {line}: {guess}; write it as one of {', '.join(EXTENSIONS)}, in "
                "UTF-8"
            ) from None
        if encoding != "utf-8-sig":
            raise ValueError(
                f"{path} begins as {encoding.upper()} does, and is none; save the file as UTF-8"
            ) from None
        remedy = (
            f"iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(str(path))} > NEW, if it comes from "
            "Windows"
        )
        raise ValueError(
            f"{path}, line {line}: not UTF-8; save the file as UTF-8 ({remedy})"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        guess = (
            "it looks like UTF-16, save it as UTF-8"
            if text.count("\0") > len(text) // 4
            else "the file is damaged, or is no text"
        )
        raise ValueError(f"{path}, line {line}: holds a NUL byte; {guess}")
    return text


def unpacked(path: Path, content: bytes) -> bytes:
    """What a compressed file holds, also one that was packed twice; anything else as it is."""
    for _ in range(MOST_PACKED):
        unpack = next((MAGIC[start] for start in MAGIC if content.startswith(start)), None)
        if unpack is None:
            break
        try:
            content = unpack(content)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise ValueError(
                f"{path} cannot be unpacked: {error}; fetch or pack it again"
            ) from None
    return content


def read_json(path: Path, text: str) -> Iterator[tuple[str, Json]]:
    """One object per line, or one array of objects, whatever the file is called."""
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text, object_pairs_hook=without_twins)
            yield from (
                (f"row {line_number}", record) for line_number, record in enumerate(rows, start=1)
            )
            return
        except (ValueError, RecursionError) as error:
            if not (
                isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
            ):  # that is: several arrays, one per line
                line = getattr(error, "lineno", 1)
                remedy = "the file is one JSON array, of which each row must be an object"
                remedy = KEEP_ONE if is_twice(error) else remedy
                raise ValueError(
                    f"{path}, line {line}: broken JSON: {reason(error)}; {remedy}"
                ) from None
    decode = json.JSONDecoder(object_pairs_hook=without_twins).decode
    # Not splitlines(): JSON strings may hold U+2028 and other characters that Python counts as line
    # ends.
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = decode(line)
        except (ValueError, RecursionError) as error:
            single_object = one_object(text) if line_number == 1 else None
            remedy = KEEP_ONE if is_twice(error) else single_object or "write one object per line"
            raise ValueError(
                f"{path}, line {line_number}: broken JSON: {reason(error)}; {remedy}"
            ) from None
        yield f"line {line_number}", record


def without_twins(pairs: list[tuple[str, Json]]) -> JsonObject:
    """A JSON object. Python would take the last of two entries of one name without a word."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f'"{next(name for name in names if names.count(name) > 1)}" stands in one object twice'
        )
    return fields


def reason(error: Exception) -> str:
    """What is wrong with JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (character {error.colno})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if is_twice(error) else "a number with too many digits"


KEEP_ONE = "keep one of the two"


def is_twice(error: Exception) -> bool:
    """Whether two entries of an object have the same name."""
    return str(error).endswith("stands in one object twice")


def one_object(text: str) -> str | None:
    """What to do with a file that is one JSON object over several lines; None for any other."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    lists = (
        [name for name, value in parsed.items() if isinstance(value, list)]
        if isinstance(parsed, dict)
        else []
    )
    hint = f', whose rows may be in "{lists[0]}"' if lists else ""
    return f"the file is one JSON object{hint}; write its rows as one array, or one object per line"


def read_csv(path: Path, text: str, delimiter: str, every: bool) -> Iterator[tuple[str, Json]]:
    """The rows of a table in text, as dictionaries of those fields that hold something, and of
    those that must.
    """
    csv.field_size_limit(
        2**31 - 1
    )  # the module's own limit, 131,072 characters, is for nobody's sake
    blank = len(text) - len(text.lstrip("\r\n"))
    skipped = len(text[:blank].splitlines())
    reader = csv.DictReader(io.StringIO(text[blank:], newline=""), strict=True, delimiter=delimiter)
    line = skipped + 1
    try:
        check_twice(path, reader.fieldnames or [])
        reader.fieldnames = named(reader.fieldnames or [])
        if not every:
            check_columns(path, reader.fieldnames or [], delimiter)
        needed = [name for name in ("prompt", "completion") if name in (reader.fieldnames or [])]
        for record in reader:
            line = skipped + reader.line_num
            if None in record:
                raise ValueError(
                    f"{path}, line {line}: more fields than columns; put texts that hold a "
                    "separator in double quotes"
                )
            if None in [record[name] for name in needed]:
                lacks = "has no prompt" if record["prompt"] is None else "has no answer"
                raise ValueError(
                    f"{path}, line {line}: {lacks}: fewer fields than columns; add it after a comma"
                )
            yield (
                f"line {line}",
                {name: value for name, value in record.items() if value or name in needed},
            )
    except csv.Error as error:
        raise ValueError(
            f"{path}, after line {line}: broken CSV: {error}; check the quotes, or use .jsonl"
        ) from None


def check_columns(path: Path, names: Sequence[str], delimiter: str) -> None:
    """Raise ValueError when the first line of a table in text, if it has one, names other columns
    than those that are read.
    """
    if names and not {"prompt", "completion"} <= set(names):
        from jobs.data.foreign_formats import remedy_for

        separator = "tabs" if delimiter == "\t" else "commas"
        remedy = (
            f"separate them with {separator}"
            if len(names) == 1
            else "rename them in the first line"
        )
        remedy = (
            "conversations go into a .jsonl or .parquet file" if "messages" in names else remedy
        )
        remedy = remedy_for(path, dict.fromkeys(names, "x")) or remedy
        raise ValueError(
            f'{path} needs the columns "prompt" and "completion", found {quote(names)}; {remedy}'
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


def read_parquet(
    path: Path, unused: Counter[str], every: bool, keep: Sequence[str] = ()
) -> Iterator[tuple[str, Json]]:
    """The rows of a Parquet file: only columns that are read, the others are looked at for how many
    rows hold something.
    """
    import pyarrow  # 0.3 s, and needed for this format only
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        check_twice(path, names)
        read = names if every else [name for name in names if name in READ or name in keep]
        if not every and "messages" not in read and not {"prompt", "completion"} <= set(read):
            raise ValueError(
                f"{path} needs the columns {COLUMNS}; found {quote(names)}{foreign_table(path)}"
            )
        table = pyarrow.parquet.ParquetFile(path).read(columns=read)
        for name in set(names) - set(read):
            columns = pyarrow.parquet.ParquetFile(path).read(columns=[name]).columns
            for told, column in zip(places_of(name, names), columns, strict=True):
                unused[told] += len(column) - column.null_count
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as parquet: {str(error).splitlines()[0]}"
        ) from None
    try:
        records = table.to_pylist(maps_as_pydicts="strict")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} holds a text that is not UTF-8 ({error.object[:20]!r}); write it as UTF-8"
        ) from None
    nested = [name for name in ("messages", "tools") if name in read]
    for row_number, record in enumerate(records, start=1):
        yield f"row {row_number}", record | {name: without_nulls(record[name]) for name in nested}


def places_of(name: str, names: Sequence[str]) -> list[str]:
    """What the columns of one name are told as: several may have none."""
    return [told for told, other in zip(named(names), names, strict=True) if other == name]


def foreign_table(path: Path) -> str:
    """What to do with a Parquet file of other columns, for the end of a message."""
    import pyarrow.parquet

    from jobs.data.foreign_formats import remedy_for

    first = next(pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1), None)
    rows = [] if first is None else first.to_pylist()
    remedy = remedy_for(path, rows[0]) if rows else None
    return f"; {remedy}" if remedy else ""
