"""Records: what stands in a data file, one after the other, whatever form the file has.

Owns forms, compression and text encodings; tables.py has those forms that name their columns. What
a record means is left to readers.py, which files there are to splits.py.
"""

from __future__ import annotations

import bz2
import difflib
import gzip
import json
import lzma
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.data.bad_rows import UnreadableLine
from jobs.data.file_forms import EXTENSIONS, PACKED, form_of, is_arrow_folder
from jobs.data.shape_remedies import is_table_by_columns, whole_table
from jobs.data.tables import Records, arrow_records, csv_records, parquet_records
from jobs.files.json_types import Json, JsonObject


def unpack_zstd(content: bytes) -> bytes:
    """What a file packed with Zstandard holds."""
    import pyarrow  # 0.3 s, and needed for this only

    return bytes(pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read())


MAGIC = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x28\xb5\x2f\xfd": unpack_zstd,
}
"""How a compressed file begins, and what unpacks it."""
MOST_PACKED = 3
"""Times that a file may have been packed, one around the other."""
FOREIGN = {
    b"PAR1": "a Parquet file; give it a name that ends in .parquet",
    b"PK\x03\x04": "a ZIP archive or a workbook; unpack it, or save the sheet as CSV",
    b"ARROW1": "an Arrow file; give it a name that ends in .arrow",
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
    if is_arrow_folder(path):
        return
    if form_of(path) is None:
        raise ValueError(unknown_form(path))
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file")
    if path.is_symlink() and not path.exists():
        raise ValueError(
            f"{path} is a link to {path.readlink()}, where there is no file; mend the link or name "
            "the file itself"
        )
    if not path.exists():
        raise ValueError(f"{path} does not exist; {describe_neighbours(path)}")


def unknown_form(path: Path) -> str:
    """Why a file cannot be read whose name says no form, by what it holds where that is known."""
    ending = path.suffix or "a file without extension"
    forms = f"use one of {', '.join(EXTENSIONS)}, the text ones also with {', '.join(PACKED)}"
    try:
        with open(path, "rb") as stream:
            beginning = stream.read(max(map(len, FOREIGN)))
    except OSError:
        return f"{path}: cannot read {ending}; {forms}"
    known = next((words for start, words in FOREIGN.items() if beginning.startswith(start)), None)
    if known is None:
        return f"{path}: cannot read {ending}; {forms}"
    return f"{path}: cannot read {ending}; it is {known.format(path=shlex.quote(str(path)))}"


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


def open_records(path: Path) -> Records:
    """The records of a file, or of an Arrow folder. A place is like "line 3", or "row 3" where a
    file has no lines; blank lines are left out.

    Raises ValueError with the file, the place and the remedy, here or while they are read.
    """
    form = form_of(path)
    if form == ".parquet":
        return parquet_records(path)
    if form == ".arrow" or is_arrow_folder(path):
        return arrow_records(path)
    text = read_text(path)
    if form in (".csv", ".tsv"):
        return csv_records(path, text, "\t" if form == ".tsv" else ",")
    return Records(lambda columns: read_json(path, text))


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


class OnlyRecord(dict[str, Any]):
    """An object that is a .json file by itself: a single row, or a whole table."""


def read_json(path: Path, text: str) -> Iterator[tuple[str, Json | UnreadableLine]]:
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
    is_only = form_of(path) == ".json" and "\n" not in text.strip()
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
            problem = f"{path}, line {line_number}: broken JSON: {reason(error)}; {remedy}"
            if single_object is not None:
                raise ValueError(problem) from None
            yield f"line {line_number}", UnreadableLine(problem)
            continue
        yield (
            f"line {line_number}",
            OnlyRecord(record) if is_only and isinstance(record, dict) else record,
        )


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
    if isinstance(parsed, dict) and is_table_by_columns(parsed):
        return f"the file {whole_table(parsed)}"
    lists = (
        [name for name, value in parsed.items() if isinstance(value, list)]
        if isinstance(parsed, dict)
        else []
    )
    hint = f', whose rows may be in "{lists[0]}"' if lists else ""
    return f"the file is one JSON object{hint}; write its rows as one array, or one object per line"
