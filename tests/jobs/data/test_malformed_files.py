"""A file that cannot be read into rows says where and what to do."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from tests.support.row_files import CHAT, GOOD, complaint, write, write_parquet


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "terms.jsonl")
    assert (
        complaint(tmp_path / "term.jsonl")
        == f"{tmp_path}/term.jsonl does not exist; did you mean {tmp_path}/terms.jsonl?"
    )
    assert complaint(tmp_path / "xyz.csv").endswith(f"{tmp_path} holds terms.jsonl")
    assert "neither does its folder" in complaint(tmp_path / "no" / "x.jsonl")


def test_a_name_that_is_no_data_file_is_refused(tmp_path: Path) -> None:
    assert "cannot read .txt; use one of .jsonl, .ndjson, .json, .csv" in complaint(
        write(tmp_path, GOOD, "train.txt")
    )
    assert "without extension" in complaint(tmp_path / "train")
    (tmp_path / "x.jsonl").mkdir()
    assert complaint(tmp_path / "x.jsonl").endswith("is a folder, not a file")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n \r\n"), ("a.csv", ""), ("a.csv", "prompt,completion\n")],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert "has no rows" in complaint(write(tmp_path, content, name))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"prompt": "Flu", "completion": }',
            "line 17: broken JSON: Expecting value (character 33)",
        ),
        ("[" * 100_000, "line 17: broken JSON"),
        ('["Flu", "J11"]', "line 17: a row must be an object"),
        (
            "3",
            'a row must be an object with "prompt" and "completion", or "messages", got a number (3)',
        ),
        (
            '{"question": "Flu", "answer": "J11"}',
            'this one "question" and "answer"; put them into two files',
        ),
        ('{"prompt": "Flu"}', 'has no answer: "completion" is missing'),
        ('{"prompt": "Flu", "completion": null}', 'has no answer: "completion" is null'),
        ('{"prompt": "Flu", "completion": ""}', 'has no answer: "completion" is empty'),
        ('{"prompt": "Flu", "completion": " \\n "}', 'has no answer: "completion" is empty'),
        (
            '{"prompt": "Flu", "completion": 11}',
            '"completion" must be text, got a number (11); write it in quotes',
        ),
        (
            '{"prompt": "Flu", "completion": true}',
            '"completion" must be text, got true or false (True)',
        ),
        ('{"prompt": "Flu", "completion": ["J11"]}', '"completion" must be text, got a list'),
        ('{"prompt": null, "completion": "J11"}', 'has no prompt: "prompt" is null'),
        ('{"prompt": " ", "completion": "J11"}', '"prompt" is empty'),
        ('{"prompt": "\\ud83d", "completion": "J11"}', "surrogate"),
        (
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]}',
            "a mix of formats: line 1 holds",
        ),
    ],
)
def test_a_malformed_line_is_named_with_what_is_wrong(
    tmp_path: Path, line: str, message: str
) -> None:
    path = write(tmp_path, GOOD * 16 + line + "\n" + GOOD)
    assert message in (found := complaint(path)) and found.startswith(f"{path}, line 17: ")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], '"messages" is empty'),
        ("Hi", '"messages" is a text that is no JSON'),
        ('{"role": "user"}', '"messages" must be a list, got text'),
        (CHAT["messages"][:2], 'has no answer: the last message is from "user"'),
        (
            [CHAT["messages"][1], {"role": "assistant", "content": " "}],
            "has no answer: the last message is empty",
        ),
        ([CHAT["messages"][2]], "has no prompt"),
        (["Hi", "Yes?"], "message 1 must be an object with role and content, got text (Hi)"),
        (
            [{"from": "user", "value": "Hi"}, CHAT["messages"][2]],
            'this one ShareGPT ("messages"); put them into two files',
        ),
        (
            [{"role": "user", "content": [{"type": "text"}]}, CHAT["messages"][2]],
            "a part of message 1 must be text, got null",
        ),
        (
            [{"role": "user", "content": {"text": "Hi"}}, CHAT["messages"][2]],
            '"content" of message 1 must be text, got an object',
        ),
        (
            [{"role": "user", "content": None}, CHAT["messages"][2]],
            '"content" of message 1 must be text, got null',
        ),
        (
            [CHAT["messages"][1], {"role": "assistant", "content": "", "tool_calls": []}],
            "has no answer: the last message is empty",
        ),
        (
            [CHAT["messages"][1], {"role": "assistant", "tool_calls": "x"}],
            '"tool_calls" of message 2 is a text that is no JSON',
        ),
        (
            [CHAT["messages"][1], {"role": "assistant", "tool_calls": [{"id": "a"}]}],
            'a call has no "name"; found "id"',
        ),
        (
            [CHAT["messages"][1], CHAT["messages"][2] | {"reasoning_content": 3}],
            '"reasoning_content" of message 2 must be text',
        ),
    ],
)
def test_a_malformed_conversation_is_named_with_what_is_wrong(
    tmp_path: Path, messages: Any, message: str
) -> None:
    assert message in complaint(
        write(tmp_path, json.dumps(CHAT) + "\n" + json.dumps({"messages": messages}))
    )


def test_an_object_that_holds_the_rows_is_refused_with_where_they_are(tmp_path: Path) -> None:
    rows = json.dumps({"version": 1, "tags": ["a"], "train": [json.loads(GOOD)]})
    for content in (rows, f"{rows}\n"):
        said = complaint(write(tmp_path, content, "train.json"))
        assert 'found "version", "tags", "train"; its rows may be in "train": write those' in said


def test_an_entry_that_stands_in_one_object_twice_is_refused(tmp_path: Path) -> None:
    twice = '{"prompt": "Flu", "completion": "J11", "completion": "J12"}\n'
    assert 'line 2: broken JSON: "completion" stands in one object twice' in complaint(
        write(tmp_path, GOOD + twice)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1....", "is a Parquet file; give it a name that ends in .parquet"),
        (b"\x28\xb5\x2f\xfd...", "cannot be unpacked"),
        (b"ARROW1....", "an Arrow file; give it a name that ends in .arrow"),
        (b"PK\x03\x04...", "a ZIP archive or a workbook"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run: git lfs pull"),
        (GOOD.encode("utf-16-le"), "line 1: holds a NUL byte; it looks like UTF-16"),
        (
            GOOD.encode() + b'{"prompt": "a\0b", "completion": "c"}\n',
            "line 2: holds a NUL byte; the file is damaged",
        ),
        (GOOD.replace("Flu", "Fieber ü").encode("utf-16-le"), "it looks like UTF-16"),
        (
            b"\x80\x04\x95\x1c\0\0\0 a list of rows, pickled",
            "line 1: is no text, it begins with b'\\x80",
        ),
        (lzma.compress(GOOD.encode(), format=lzma.FORMAT_ALONE), "xz --format=lzma -dc"),
        (b"\xff\xfea", "begins as UTF-16 does, and is none"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    for name in ("train.jsonl", "train.csv"):
        assert message in complaint(write(tmp_path, content, name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "Flu,J11\nCold,J00\n",
            'line 2: needs "prompt" and "completion", or "messages"; found "Flu", "J11"; or say',
        ),
        ("prompt:completion\nFlu:J11\n", 'found "prompt:completion"'),
        ("prompt,completion\nFlu, mild,J11\n", "line 2: more fields than columns"),
        ("prompt,completion\nFlu\n", 'has no answer: "completion" is null; fewer fields'),
        ("completion,prompt\nJ11\n", 'line 2: has no prompt: "prompt" is null; fewer fields'),
        ("\n\r\nprompt,completion\nFlu, mild,J11\n", "line 4: more fields than columns"),
        ("messages\nx\n", 'line 2: "messages" is a text that is no JSON'),
        ('prompt,completion\nFlu,J11\n"Flu,J11\n', "after line 2: broken CSV"),
    ],
)
def test_a_malformed_csv_file_is_named_with_what_is_wrong(
    tmp_path: Path, content: str, message: str
) -> None:
    assert message in complaint(write(tmp_path, content, "train.csv"))


def test_a_malformed_parquet_file_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    assert "cannot be read as parquet" in complaint(write(tmp_path, GOOD, "train.parquet"))
    assert 'found "question"' in complaint(write_parquet(tmp_path, {"question": ["Flu"]}))
    assert 'row 2: has no answer: "completion" is null' in complaint(
        write_parquet(tmp_path, {"prompt": ["a", "b"], "completion": ["c", None]})
    )
    assert 'row 1: "completion" must be text, got a number (3)' in complaint(
        write_parquet(tmp_path, {"prompt": ["a"], "completion": [3]})
    )
    assert "has no rows" in complaint(write_parquet(tmp_path, {"prompt": [], "completion": []}))
