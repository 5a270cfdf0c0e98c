"""Bad data: exit code 2 and one clear message that names the file and the place in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROW = {"prompt": "a question", "completion": "an answer"}


def lines(*rows: Any) -> str:
    """Rows as JSON lines; a string stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


FILES: list[tuple[str, dict[str, str], list[str]]] = [
    (
        "other name",
        {"train.jsonl": lines(ROW), "my_validation.jsonl": lines(ROW)},
        ["my_validation.jsonl is not read; rename it to valid.jsonl, or name it: data.valid="],
    ),
    (
        "two names",
        {"train.jsonl": lines(ROW), "dev.jsonl": lines(ROW), "valid.json": "[]"},
        ["dev.jsonl", "valid.json both hold valid rows"],
    ),
    (
        "other ending",
        {"train.jsonl": lines(ROW), "test.xlsx": "x"},
        ["test.xlsx is not read; write it as test.jsonl"],
    ),
    (
        "packed otherwise",
        {"train.jsonl": lines(ROW), "valid.jsonl.zst": "x"},
        ["valid.jsonl.zst, line 1: broken"],
    ),
    (
        "two files and a number",
        {"train.jsonl": lines(ROW), "test.csv": "", "test_2.csv": ""},
        ["both hold test rows", "test-1, test-2"],
    ),
    (
        "part missing",
        {"train-00000-of-00003.jsonl": "", "train-00002-of-00003.jsonl": ""},
        ["2 of 3 parts; fetch the others"],
    ),
    (
        "no training file",
        {"train_data.jsonl": lines(ROW)},
        ["train_data.jsonl is not read; rename it to train.jsonl"],
    ),
    (
        "twice",
        {"train.jsonl": '{"prompt": "a", "prompt": "b", "completion": "c"}'},
        ["line 1", '"prompt" stands in one object twice'],
    ),
    (
        "two in one",
        {"train.jsonl": lines({**ROW, "messages": [{"role": "user", "content": "x"}]})},
        ["line 1", "leave one out"],
    ),
    (
        "mistyped role",
        {
            "train.jsonl": lines(
                {
                    "messages": [
                        {"role": r, "content": "x"}
                        for r in ("user", "asistant", "user", "assistant")
                    ]
                }
            )
        },
        ["line 1", 'message 2 has the role "asistant"; did you mean "assistant"?'],
    ),
    ("missing", {"valid.jsonl": lines(ROW)}, ["train.jsonl"]),
    ("empty", {"train.jsonl": ""}, ["train.jsonl", "empty"]),
    ("no answer", {"train.jsonl": lines(ROW, {"prompt": "x"})}, ["line 2", "answer"]),
    ("blank answer", {"train.jsonl": lines(ROW, {"prompt": "x", "completion": " "})}, ["line 2"]),
    ("broken", {"train.jsonl": lines(*[ROW] * 16, '{"prompt": "x", ', ROW)}, ["line 17"]),
    (
        "two files",
        {"train.jsonl": lines(ROW), "train.csv": "prompt,completion\na,b\n"},
        ["train.jsonl", "train.csv"],
    ),
    (
        "old line ends",
        {"train.jsonl": lines(*[ROW] * 3).replace("\n", "\r")},
        ["line 1", "write one object per line"],
    ),
    ("deep", {"train.jsonl": "[" * 100_000}, ["nested too deeply", "one JSON array"]),
    (
        "digits",
        {"train.jsonl": lines('{"prompt": ' + "9" * 5000 + "}")},
        ["a number with too many digits"],
    ),
    (
        "system only",
        {
            "train.jsonl": lines(
                {"messages": [{"role": r, "content": "x"} for r in ("system", "assistant")]}
            )
        },
        ["line 1", "message from the user"],
    ),
    (
        "column twice",
        {"train.csv": "prompt,prompt,completion\na,b,c\n"},
        ['"prompt" as the name of 2 columns', "rename or remove"],
    ),
    (
        "two shapes",
        {
            "train.jsonl": lines(
                ROW,
                {
                    "messages": [
                        {"role": "user", "content": "x"},
                        {"role": "assistant", "content": "y"},
                    ]
                },
            )
        },
        ["mix"],
    ),
    (
        "too long",
        {
            "train.jsonl": lines(
                *[
                    {"prompt": f"p{i}", "completion": "word " * (400 if i == 7 else 1)}
                    for i in range(30)
                ]
            )
        },
        ["train.max_length"],
    ),
]


@pytest.mark.parametrize(
    ("files", "expected"), [case[1:] for case in FILES], ids=[case[0] for case in FILES]
)
def test_bad_data_is_named_with_file_and_place(
    refuse: Callable[..., str], tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    folder = tmp_path / "data with ümlaut"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    message = refuse("data=files", f"data.folder={folder}")
    for part in expected:
        assert part in message


def test_a_bad_parquet_file_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.array(["a", "b"])
    tables = {
        "twice": (
            pyarrow.Table.from_arrays([text, text, text], names=["prompt", "prompt", "completion"]),
            '"prompt" as the name of 2 columns',
        ),
        "latin1": (
            pyarrow.table(
                {
                    "prompt": pyarrow.array([b"a\xff", b"b"]).view(pyarrow.string()),
                    "completion": text,
                }
            ),
            "not UTF-8",
        ),
    }
    for name, (table, expected) in tables.items():
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
        message = refuse(f"+data.sources.mine={{path: {tmp_path / name}.parquet}}")
        assert expected in message and f"{name}.parquet" in message


def test_a_folder_or_a_dead_link_in_the_place_of_a_file_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "train.jsonl")
    assert "train.jsonl is a link to no file; it must be a file" in refuse(
        "data=files", f"data.folder={tmp_path}"
    )
    assert f"is a link to {tmp_path / 'train.jsonl'}, where there is no file" in refuse(
        f"data.valid={tmp_path / 'train.jsonl'}"
    )
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.jsonl").mkdir()
    assert "train.jsonl is a folder; it must be a file" in refuse(
        "data=files", f"data.folder={tmp_path}"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_this_user_may_not_read_or_write_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        for setting in (
            f"data.folder={closed}",
            f"data.folder={closed}/x",
            f"data.valid={closed}/v.jsonl",
        ):
            assert "cannot be read: Permission denied" in refuse(
                "data=files", "data.folder=.", setting
            )
        assert "Permission denied; choose another one" in refuse(f"storage={closed}/x")
        closed.chmod(0o555)
        assert "is not open to this user" in refuse(f"storage={closed}/x")
    finally:
        closed.chmod(0o755)


def test_a_missing_source_file_is_named(refuse: Callable[..., str]) -> None:
    assert "nosuch.jsonl" in refuse("+data.sources.mine={path: nosuch.jsonl, weight: 0.5}")
