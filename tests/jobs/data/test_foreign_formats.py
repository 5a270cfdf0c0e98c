"""Rows in other projects' formats: refused with a command, and the command, pasted into a shell,
writes what is then read.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.convert import main
from jobs.data.foreign_formats import as_row
from jobs.data.readers import read_rows
from tests.conftest import ROOT

TURNS = [
    {"from": "system", "value": "Sort."},
    {"from": "human", "value": "It broke's"},
    {"from": "gpt", "value": "refund"},
]
CHAT = [("system", "Sort."), ("user", "It broke's"), ("assistant", "refund")]
PAIR = [("user", "It broke's"), ("assistant", "refund")]
FORMATS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "sharegpt": ("train.jsonl", json.dumps({"id": "c0", "conversations": TURNS}), CHAT),
    "sharegpt in messages": ("train.jsonl", json.dumps({"messages": TURNS}), CHAT),
    "sharegpt with its system apart": (
        "train.json",
        json.dumps([{"system": "Sort.", "conversations": TURNS[1:]}]),
        CHAT,
    ),
    "alpaca": (
        "train.jsonl",
        json.dumps({"instruction": "Sort.", "input": "It broke", "output": "refund"}),
        [("user", "Sort.\n\nIt broke"), ("assistant", "refund")],
    ),
    "alpaca without input": (
        "train.jsonl",
        json.dumps({"instruction": "It broke's", "input": "", "output": "refund"}),
        PAIR,
    ),
    "alpaca with a history": (
        "valid.json",
        json.dumps(
            [
                {
                    "instruction": "More?",
                    "input": "",
                    "output": "no",
                    "history": [["It broke's", "refund"]],
                    "system": "Sort.",
                }
            ]
        ),
        [*CHAT, ("user", "More?"), ("assistant", "no")],
    ),
    "text and label": (
        "train.csv",
        "text,label\nIt broke's,0\n",
        [("user", "It broke's"), ("assistant", "0")],
    ),
    "tabs": (
        "test.tsv",
        "idx\tsentence\tlabel\n7\tIt broke's\t0\n",
        [("user", "It broke's"), ("assistant", "0")],
    ),
    "a label that is a number": (
        "train.jsonl",
        json.dumps({"text": "It broke's", "label": 1}),
        [("user", "It broke's"), ("assistant", "1")],
    ),
    "question and answer": (
        "train.jsonl",
        json.dumps({"question": "It broke's", "answer": "refund"}),
        PAIR,
    ),
    "prompt and response": (
        "train.jsonl",
        json.dumps({"prompt": "It broke's", "response": "refund"}),
        PAIR,
    ),
    "prompt and completion as messages": (
        "train.jsonl",
        json.dumps(
            {
                "prompt": [{"role": "user", "content": "It broke's"}],
                "completion": [{"role": "assistant", "content": "refund"}],
            }
        ),
        PAIR,
    ),
}


@pytest.mark.parametrize(("name", "content", "expected"), FORMATS.values(), ids=FORMATS)
def test_the_printed_command_writes_rows_that_are_read(
    tmp_path: Path, name: str, content: str, expected: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="convert it, and use what that writes: ") as caught:
        read_rows(folder / name)
    command = (
        str(caught.value)
        .partition("that writes: ")[2]
        .replace("python", shlex.quote(sys.executable), 1)
    )
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "data.folder='it'\"'\"'s mine-converted'" in done.stdout
    (row,) = read_rows(tmp_path / "it's mine-converted" / f"{Path(name).stem}.jsonl")
    assert [(message["role"], message["content"]) for message in row.messages] == expected


def test_a_parquet_file_of_other_columns_names_the_command_too(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["It broke"], "label": [3]}), path)
    with pytest.raises(ValueError, match="python -m jobs.convert"):
        read_rows(path)
    assert main([str(path), str(tmp_path / "new.jsonl")]) == 0
    assert read_rows(tmp_path / "new.jsonl")[0].answer == "3"


@pytest.mark.parametrize(
    "record",
    [
        {"text": "only"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"conversations": "x"},
        {"conversations": [3]},
        {"text": [1], "label": 2},
    ],
)
def test_what_is_not_understood_is_not_guessed(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_row(record) is None
    path = tmp_path / "train.jsonl"
    path.write_text(
        json.dumps({"text": "a", "label": "b"}) + "\n" + json.dumps(record) + "\n", encoding="utf-8"
    )
    assert main([str(path), str(tmp_path / "new.jsonl")]) == 2
    assert "line 2: no prompt and answer are found in it" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["train.jsonl"]


def test_nothing_is_written_over_and_bad_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,b\n", encoding="utf-8")
    (tmp_path / "new.jsonl").write_text("mine", encoding="utf-8")
    cases = {"new.jsonl": "is there already", "new.csv": "must end in .jsonl"}
    for name, message in cases.items():
        assert main([str(path), str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert main([str(tmp_path / "none.csv"), "x.jsonl"]) == main([]) == 2
    assert (tmp_path / "new.jsonl").read_text() == "mine"
