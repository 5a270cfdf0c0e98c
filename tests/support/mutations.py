"""Commands and files of rows with mistakes that are drawn, for tests of how they are answered.

Everything is drawn from a seed: the same seed gives the same command and the same bytes.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from orchestrator.config.compose import choices
from orchestrator.config.settings import Config

COMMANDS: tuple[tuple[str, ...], ...] = (
    (),
    ("+sweep=lora", "sweep.minutes=null"),
    ("+sweep=lora", "sweep.num_trials=4", "train.steps=40", "train.eval_every=10"),
    ("+sweep=lora", "executor=plain", "cluster.num_cpus=1"),
    ("adapter=full", "train.steps=10"),
    ("train.max_length=128", "data.neighbours.count=3"),
    ("job=check",),
    ("+sweep=lora", "export.format=gguf-q8_0", "budget.minutes=5"),
    ("+sweep=lora", "sweep.search=random", "sweep.scheduler=none", "final.count=2"),
)
"""What is right before it is changed."""
ODD_VALUES: tuple[str, ...] = (
    *("", "null", "true", "false", "0", "-1", "1", "2", "7", "0.5", "-0.5", "1e-9", "1e309"),
    *("nan", "inf", "-inf", "abc", "'a b'", '"quoted"', "é", "日本", "1000000000000000000000"),
    *("[]", "{}", "[1]", "[a,b]", "[[1]]", "{a: 1}", "{a: {b: 1}}", "[null]", "???", "auto"),
    *("${train.steps}", "${oc.env:HOME}", "${nosuch}", "${oc.env:NOSUCH}", "$x", "a/b", "../x"),
    *("/", ".", "~", "-", "a=b", "a:b", "'", '"', "[", "{", "]", "1,2", "x" * 300, "\\n", "\t"),
    *("3", "4", "10", "16", "100", "0.1", "0.9", "1.0", "0.001", "0.3", "2.5", "12", "64", "1024"),
    *("0x10", "1_000", "01", "2026-01-01", "http://127.0.0.1:1", "file:///x", "s3://b/k", "on"),
    *("lora", "halving", "none", "cpu", "float32", "wheel", "mean", "valid/loss", "exact_match"),
)
"""Values of every kind, most of them wrong for most settings."""
LEFT_ALONE = ("cluster.", "tracking.", "storage", "synthesis.teacher", "judge", "hydra")
"""Settings that name a place outside of the test, or where the test itself writes."""


def paths(cls: type = Config, at: str = "") -> Iterator[str]:
    """Every setting's path, sections first."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = f"{at}{field.name}"
        yield path
        for inner in sections(hints[field.name]):
            yield from paths(inner, f"{path}.")


def sections(hint: Any) -> list[type]:
    """The dataclass that a setting's type is, or may be."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
    else:
        parts = (hint,)
    return [part for part in parts if dataclasses.is_dataclass(part) and isinstance(part, type)]


def command(seed: int, known: list[str]) -> list[str]:
    """The settings of a command in which one to three things are changed.

    `known` are the paths of all settings.
    """
    draw = random.Random(seed)
    words = list(draw.choice(COMMANDS))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        CHANGES[draw.randrange(len(CHANGES))](draw, words, known)
    return words


def other_value(draw: random.Random, words: list[str], known: list[str]) -> None:
    path = draw.choice(known)
    words.append(f"{draw.choice(('', '', '+', '++'))}{path}={draw.choice(ODD_VALUES)}")


def other_value_of_a_typed_one(draw: random.Random, words: list[str], known: list[str]) -> None:
    if not words:
        return other_value(draw, words, known)
    place = draw.randrange(len(words))
    words[place] = f"{words[place].partition('=')[0]}={draw.choice(ODD_VALUES)}"
    return None


def another_name(draw: random.Random, words: list[str], known: list[str]) -> None:
    path = list(draw.choice(known))
    place = draw.randrange(len(path))
    path[place : place + draw.randrange(2)] = draw.choice("abcxyz._-")
    words.append(f"{''.join(path)}={draw.choice(ODD_VALUES)}")


def removed(draw: random.Random, words: list[str], known: list[str]) -> None:
    words.append(f"~{draw.choice(known)}")


def below_a_value(draw: random.Random, words: list[str], known: list[str]) -> None:
    words.append(f"+{draw.choice(known)}.{draw.choice(('x', '0', 'path'))}=1")


def a_choice(draw: random.Random, words: list[str], _: list[str]) -> None:
    every = choices()
    group = draw.choice([name for name in sorted(every) if name not in ("cluster", "model")])
    name = draw.choice([*every[group], "nosuch"])
    words.append(f"{draw.choice(('', '+', '~'))}{group}={name}")


def space(draw: random.Random, words: list[str], known: list[str]) -> None:
    knob = {
        "path": draw.choice(known),
        "type": draw.choice(("uniform", "loguniform", "choice", "grid", "linked", "x")),
    }
    for name in draw.sample(("low", "high", "step", "values", "to", "times", "plus"), 3):
        knob[name] = draw.choice(ODD_VALUES[:16])
    inside = ", ".join(f"{name}: {value or '?'}" for name, value in knob.items())
    words.append(f"+sweep.space.{draw.choice(('lr', 'rank', 'mine'))}={{{inside}}}")


def not_a_setting(draw: random.Random, words: list[str], known: list[str]) -> None:
    words.append(draw.choice((*ODD_VALUES, "--cfg", "-x", draw.choice(known))))


CHANGES: tuple[Callable[[random.Random, list[str], list[str]], None], ...] = (
    *(other_value, other_value, other_value, other_value_of_a_typed_one, another_name),
    *(removed, below_a_value, a_choice, space, not_a_setting),
)
ROWS = [
    {"question": f"Case {i} é of {word}", "answer": word[0].upper()}
    for i in range(40)
    for word in ("alpha", "beta", "gamma")
]
"""Rows that are right."""
ODD_CELLS: tuple[Any, ...] = (
    *(None, "", " ", "\u0000", "\ud800", "é" * 5000, 0, -1, 1.5, True, [], {}, [1], {"a": 1}),
    *([{"role": "user", "content": "x"}], [{"role": "x"}], [None], "<|im_end|>", "\n\n", "\ufeffx"),
    *(float("nan"), float("inf"), 10**400, "=1+1", "2026-01-01", {"role": "user"}),
)


def file_of_rows(seed: int) -> tuple[str, bytes]:
    """A name and the bytes of a file in which rows or bytes are changed."""
    draw = random.Random(seed)
    rows: list[Any] = [dict(row) for row in ROWS]
    if draw.random() < 0.6:
        for _ in range(draw.choice((1, 1, 3, 40))):
            change_row(draw, rows)
    name = draw.choice(("jsonl", "json", "csv", "tsv", "parquet", "arrow", "jsonl.gz"))
    content = written(name, rows)
    if draw.random() < 0.5:
        for _ in range(draw.choice((1, 1, 2, 8))):
            content = change_bytes(draw, content)
    if draw.random() < 0.08:
        name = draw.choice(("jsonl", "json", "csv", "parquet", "jsonl.zst"))
    return f"train.{name}", content


def change_row(draw: random.Random, rows: list[Any]) -> None:
    place = draw.randrange(len(rows))
    row = rows[place]
    if not isinstance(row, dict) or draw.random() < 0.1:
        rows[place] = draw.choice(ODD_CELLS)
        return
    column = draw.choice(("question", "answer", "messages", "conversations", "text", "x"))
    match draw.randrange(4):
        case 0 | 1:
            row[column] = draw.choice(ODD_CELLS)
        case 2:
            row.pop(column, None)
        case _:
            rows.insert(place, dict(row))


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    match draw.randrange(6):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + draw.randbytes(draw.choice((1, 4, 64))) + content[place:]
        case 2:
            return content[:place] + content[place + draw.choice((1, 8, 200)) :]
        case 3:
            piece = draw.choice((b'"', b",", b"\n", b"\r", b"{", b"}", b"]", b"\\", b"\x00", b"\t"))
            return content[:place] + piece + content[place:]
        case 4:
            return content[:place] + content[place : place + 100] + content[place:]
        case _:
            return draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04", b"\x1f\x8b")) + content


def written(name: str, rows: list[Any]) -> bytes:
    """Rows as a file of a kind; where a kind cannot hold them, as JSON lines."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    match name:
        case "json":
            return json.dumps(rows).encode()
        case "jsonl.gz":
            return gzip.compress(lines, mtime=0)
        case "csv" | "tsv":
            between = "," if name == "csv" else "\t"
            columns = sorted({key for row in rows if isinstance(row, dict) for key in row})
            cells = [
                [str(row.get(column, "")) for column in columns]
                for row in rows
                if isinstance(row, dict)
            ]
            text = "\n".join(between.join(line) for line in [columns, *cells]) + "\n"
            return text.encode("utf-8", "surrogatepass")
        case "parquet" | "arrow":
            try:
                return columns_of(name, rows)
            except (pyarrow.ArrowException, AttributeError, OverflowError, TypeError, UnicodeError):
                return lines
        case _:
            return lines


def columns_of(name: str, rows: list[Any]) -> bytes:
    """Rows as a Parquet file or an Arrow stream."""
    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    if name == "parquet":
        pyarrow.parquet.write_table(table, sink)
        return sink.getvalue()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    return sink.getvalue()
