"""Damaged files of every kind: one message each, with the file, what is wrong with it, and where
there is one the line; never a row that is half read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus

ROWS = [{"question": f"Case {i} é", "answer": f"A{i % 7}"} for i in range(400)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = ("question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS)).encode()


def parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def arrow(kind: Callable = pyarrow.ipc.new_stream) -> bytes:
    table = pyarrow.Table.from_pylist(ROWS)
    sink = io.BytesIO()
    with kind(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def without(content: bytes, part: bytes, instead: bytes = b"") -> bytes:
    assert content.count(part) >= 1
    return content.replace(part, instead, 1)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "JSONL that ends in the middle of a line": ("a.jsonl", LINES[:-9], "line 400: broken JSON"),
    "JSONL with a line of another file": (
        "a.jsonl",
        without(LINES, b'{"question": "Case 9 ', b'<html>{"question": "Case 9 '),
        "line 10: broken JSON",
    ),
    "JSONL with two lines in one": (
        "a.jsonl",
        without(LINES, b"}\n{", b"}{"),
        "line 1: broken JSON: Extra data",
    ),
    "JSONL with a quote too few": (
        "a.jsonl",
        without(LINES, b'"answer": "A3"', b'"answer": "A3'),
        "line 4: broken JSON",
    ),
    "JSONL with single quotes": (
        "a.jsonl",
        b"{'question': 'a', 'answer': 'b'}\n",
        "line 1: broken",
    ),
    "JSONL with NaN where the answer stands": (
        "a.jsonl",
        without(LINES, b'"A3"', b"null"),
        'line 4: has no answer: "answer" is null',
    ),
    "JSONL with a conflict of Git": (
        "a.jsonl",
        without(LINES, b'{"question": "Case 5', b'<<<<<<< HEAD\n{"question": "Case 5'),
        "line 6: broken JSON",
    ),
    "JSONL in another encoding": (
        "a.jsonl",
        without(LINES, "é".encode(), b"\xe9"),
        "line 1: not UTF-8; save the file as UTF-8",
    ),
    "JSONL with zeros where a disk was full": (
        "a.jsonl",
        LINES + b"\0" * 512,
        "line 401: holds a NUL byte; the file is damaged",
    ),
    "a JSON array that ends too early": (
        "a.json",
        json.dumps(ROWS).encode()[:-20],
        "broken JSON",
    ),
    "a JSON array with a comma too many": (
        "a.json",
        json.dumps(ROWS).encode()[:-1] + b",]",
        "broken JSON",
    ),
    "CSV with a quote too many": (
        "a.csv",
        without(CSV, b"Case 9 ", b'"Case 9 '),
        "broken CSV: unexpected end of data; check the quotes",
    ),
    "CSV with a comma too many": (
        "a.csv",
        without(CSV, b"Case 9 ", b"Case, 9 "),
        "line 11: more fields than columns",
    ),
    "CSV with a line that was cut": (
        "a.csv",
        CSV[: -len("é,A0\n".encode()) - 1],
        'line 401: has no answer: "answer" is null; fewer fields than columns',
    ),
    "CSV without its first line": ("a.csv", CSV.partition(b"\n")[2], 'found "Case 0 é", "A0"'),
    "CSV of which a spreadsheet saved the workbook": ("a.csv", b"PK\x03\x04" + CSV, "a workbook"),
    "gzip that is cut": ("a.jsonl.gz", gzip.compress(LINES)[:-9], "cannot be unpacked"),
    "gzip with a wrong checksum": (
        "a.jsonl.gz",
        flipped(gzip.compress(LINES), -6),
        "cannot be unpacked: CRC check failed",
    ),
    "Zstandard that is cut": ("a.jsonl.zst", zstd(LINES)[:-9], "cannot be unpacked"),
    "bzip2 with a byte that flipped": ("a.jsonl.bz2", flipped(bz2.compress(LINES), 99), "unpacked"),
    "xz that is cut": ("a.jsonl.xz", lzma.compress(LINES)[:-9], "cannot be unpacked"),
    "Parquet that is cut": ("a.parquet", parquet()[:-100], "cannot be read as parquet"),
    "Parquet of which only the end is left": ("a.parquet", parquet()[200:], "as parquet"),
    "Parquet that is a pointer of Git LFS": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "cannot be read as parquet",
    ),
    "JSONL that is a pointer of Git LFS": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "git lfs pull",
    ),
    "an Arrow stream that is cut": ("a.arrow", arrow()[: len(arrow()) // 2], "read as Arrow"),
    "an Arrow file that is cut": ("a.arrow", arrow(pyarrow.ipc.new_file)[:-40], "as Arrow"),
    "an Arrow file that is none": ("a.arrow", LINES, "cannot be read as Arrow"),
    "a page of HTML instead of the file": (
        "a.jsonl",
        b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n",
        "line 1: broken JSON",
    ),
    "an answer of the hub instead of the file": (
        "a.jsonl",
        b'{"error": "Repository not found"}\n',
        'found "error"',
    ),
    "nothing": ("a.jsonl", b"", "is empty, it has no rows"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_says_what_is_wrong_with_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_corpus(Data(name="d", sources={"mine": Source(path=str(path))}))
    said = str(caught.value)
    assert said.startswith(f"data.sources.mine: {path}") and message in said, said
    assert "\n" not in said and len(said) < 600, said


def test_all_damaged_files_are_told_together(tmp_path: Path) -> None:
    sources = {}
    for index, (name, content, _) in enumerate(list(DAMAGED.values())[:5]):
        (tmp_path / f"{index}-{name}").write_bytes(content)
        sources[f"s{index}"] = Source(path=str(tmp_path / f"{index}-{name}"))
    with pytest.raises(ValueError) as caught:
        load_corpus(Data(name="d", sources=sources))
    assert len(str(caught.value).splitlines()) == 5
