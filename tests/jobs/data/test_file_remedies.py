"""Files of usual kinds that are read in one way only, or not at all: what is said works when it is
followed to the letter.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data
from jobs.data.corpus import load_corpus
from jobs.data.readers import Reading, read_table
from jobs.source_rows import Columns
from tests.support.row_files import complaint, write


def refused(folder: Path | str) -> str:
    """Why the rows at a place are refused."""
    with pytest.raises(ValueError) as caught:
        load_corpus(Data(name="mine", folder=str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def remedy(said: str) -> Reading:
    """The settings of data.columns that a message names, the last ones of each."""
    words = shlex.split(said[said.index("data.columns.") :])
    settings = [word.removeprefix("data.columns.").split("=", 1) for word in words if "=" in word]
    return Reading(Columns(**dict(settings)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tickets.xlsx", b"PK\x03\x04aaaa", "cannot read .xlsx; it is a ZIP archive or a workbook"),
        ("tickets.sqlite", b"SQLite format 3\0", "it is an SQLite database; write its rows as CSV"),
        ("tickets", b"PAR1abc", "a Parquet file; give it a name that ends in .parquet"),
        ("tickets.txt", b"a\tb\n", "cannot read .txt; use one of .jsonl, "),
    ],
)
def test_a_file_of_another_form_is_named_as_what_it_is(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = write(tmp_path, content, name)
    assert said in refused(file) and "is not a folder" not in refused(file)


SEPARATED = {
    "a comma in a name": "id;Text (de,en);Label\n1;it broke;a\n2;a gift, too;b\n",
    "a comma in a name and in each text but one": "Text (de,en);Label\nfirst, it broke;a\na gift;b\n",
    "as Excel says it": "sep=;\r\nText;Label\r\nit broke;a\r\na gift;b\r\n",
    "as Excel says it, with tabs": "sep=\t\nText\tLabel\nit broke\ta\na gift\tb\n",
}


@pytest.mark.parametrize("content", SEPARATED.values(), ids=SEPARATED)
def test_the_separator_is_the_one_that_fits_the_rows(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content, "rows.csv")
    text = "Text (de,en)" if "(de,en)" in content else "Text"
    table = read_table(path, reading=Reading(Columns(prompt=text, completion="Label")))
    assert [row.answer for row in table.rows] == ["a", "b"]
    assert table.rows[0].key.endswith("it broke")
    last = content.rstrip().count("\n") + 1
    assert table.rows[1].place == f"{path}, line {last}"


def test_a_separator_that_fits_stays_whatever_else_the_first_line_holds(tmp_path: Path) -> None:
    content = "text,label;kind\na;b,c\nd;e,f\n"
    names = Columns(prompt="text", completion="label;kind")
    table = read_table(write(tmp_path, content, "rows.csv"), reading=Reading(names))
    assert [(row.key, row.answer) for row in table.rows] == [("a;b", "c"), ("d;e", "f")]


ANSWER = {"b": "it's <ü>", "a": [1]}
OTHER_VALUES: dict[str, tuple[dict[str, Any], str, str]] = {
    "an object": (
        {"prompt": "x", "completion": ANSWER},
        "x",
        json.dumps(ANSWER, ensure_ascii=False),
    ),
    "a number": ({"prompt": "x", "completion": 7}, "x", "7"),
    "a prompt that is a list": ({"prompt": ["x", "y"], "completion": "z"}, "x, y", "z"),
    "an object beside Alpaca's prompt": (
        {"instruction": "Do.", "input": "x", "output": ANSWER},
        "do. x",
        json.dumps(ANSWER, ensure_ascii=False),
    ),
    "a list of labels": ({"text": "x", "label": ["a", "b"]}, "x", "a, b"),
    "two prompts": ({"question": "x", "sentence": "y", "label": "z"}, "x y", "z"),
    "names in capitals": ({"Question": "x", "Text": "y", "Answer": "z"}, "x y", "z"),
}


@pytest.mark.parametrize(("record", "key", "answer"), OTHER_VALUES.values(), ids=OTHER_VALUES)
def test_settings_that_a_refusal_names_read_the_file(
    tmp_path: Path, record: dict[str, Any], key: str, answer: str
) -> None:
    path = write(tmp_path, json.dumps(record))
    (row,) = read_table(path, reading=remedy(complaint(path))).rows
    assert (row.key, row.answer) == (key, answer)


@pytest.mark.parametrize(
    "table",
    [
        {"text": {"0": "a", "1": "b"}, "label": {"0": "c", "1": "d"}},
        {"0": {"text": "a", "label": "c"}, "1": {"text": "b", "label": "d"}},
        {"text": [str(i) for i in range(30)], "label": ["a"] * 30},
    ],
)
def test_a_table_in_one_object_is_told_as_that(tmp_path: Path, table: dict[str, Any]) -> None:
    said = complaint(write(tmp_path, json.dumps(table)))
    assert "is one object that holds a whole table" in said and 'orient="records"' in said


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_with_a_list_for_each_column_is_a_table(
    tmp_path: Path, indent: int | None
) -> None:
    for columns in (("text", "label"), ("prompt", "completion")):
        table = {column: ["a", "b", "c"] for column in columns}
        path = write(tmp_path, json.dumps(table, indent=indent), "rows.json")
        assert "is one object that holds a whole table; found" in complaint(path)
        assert 'orient="records"' in complaint(path) and "data.columns" not in complaint(path)


@pytest.mark.parametrize(
    "record",
    [
        {"text": ["a", "b"], "label": ["c"]},
        {"text": ["a"], "label": ["c"]},
        {"text": "a", "label": ["b", "c"]},
    ],
)
def test_a_single_row_with_lists_is_no_table(tmp_path: Path, record: dict[str, Any]) -> None:
    assert "whole table" not in complaint(write(tmp_path, json.dumps(record), "rows.json"))


def test_a_name_that_a_shell_takes_apart_is_shown_in_quotes(tmp_path: Path) -> None:
    rows = "Nr;Anfrage Text;Zuständige Abteilung\n1;Passwort kommt nicht an;Zugang\n"
    said = complaint(write(tmp_path, rows, "tickets.csv"))
    assert said.endswith("(in quotes where a name has a space: data.columns.prompt='Anfrage Text')")
    said = complaint(write(tmp_path, "Nr;Frage;Gerät;Ort\n1;Was?;Herd;Bad\n", "plain.csv"))
    assert said.endswith("data.columns.completion=COLUMN")


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        ({"article": "long", "highlights": "short"}, "prompt=article data.columns.completion=high"),
        ({"id": 7, "src": "long", "tgt": "short"}, "prompt=src data.columns.completion=tgt"),
        ({"document": "long", "summary": "s"}, "prompt=document data.columns.completion=summary"),
        ({"dialogue": "long", "summary": "s"}, "prompt=dialogue data.columns.completion=summary"),
        ({"text": "long", "labels": 1}, "prompt=text data.columns.completion=labels"),
        (
            {"premise": "p", "hypothesis": "h", "label": 1},
            "prompt='{{ premise }} {{ hypothesis }}'",
        ),
        ({"text": "long", "a": "x", "b": "y"}, "prompt=text data.columns.completion=COLUMN"),
    ],
)
def test_columns_that_can_only_be_prompt_and_answer_stand_in_the_remedy(
    tmp_path: Path, record: dict[str, Any], remedy: str
) -> None:
    said = complaint(write(tmp_path, json.dumps(record), "rows.jsonl"))
    assert f"data.columns.{remedy}" in said


def test_a_test_file_without_answers_is_told_with_what_to_read_instead(tmp_path: Path) -> None:
    rows = "".join(f"{i},question {i},{i % 2}\n" for i in range(60))
    train = write(tmp_path, f"id,text,target\n{rows}", "train.csv")
    write(tmp_path, "id,text\n1,what\n2,who\n", "test.csv")
    said = refused(tmp_path)
    assert 'test.csv lacks "target", which the training rows have' in said
    named = re.search(r"data\.folder=(\S+)", said)
    assert named is not None and named[1] == str(train)
    assert len(load_corpus(Data(name="mine", folder=named[1])).test) == 6


def test_a_first_line_that_looks_like_a_row_is_named(tmp_path: Path) -> None:
    rows = "ham\tGo on\nspam\tWin a prize\nham\tSee you\n"
    said = complaint(write(tmp_path, rows, "rows.tsv"))
    assert "the first line looks like a row" in said and said.count("looks like a row") == 1
    path = write(tmp_path, f"label\ttext\n{rows}", "rows.tsv")
    assert [row.answer for row in read_table(path).rows] == ["ham", "spam", "ham"]
    assert "looks like a row" not in complaint(write(tmp_path, "a\tb\nx\ty\n", "rows.tsv"))
