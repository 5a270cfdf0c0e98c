"""Which files of a folder are read: the names and endings that people give them, and never one
passed over without a word.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.corpus import load_corpus


def rows(*numbers: int) -> list[dict[str, str]]:
    return [{"prompt": f"Case {number}", "completion": f"A{number % 7}"} for number in numbers]


def text(numbers: range, form: str) -> bytes:
    """Rows in the form of an ending."""
    held = rows(*numbers)
    if form == "json":
        return json.dumps(held).encode()
    if form in ("csv", "tsv"):
        separator = "\t" if form == "tsv" else ","
        return "\n".join(
            [separator.join(held[0]), *(separator.join(row.values()) for row in held)]
        ).encode()
    return "\n".join(json.dumps(row) for row in held).encode()


def fill(folder: Path, **files: range) -> Data:
    """Files called by name and ending, "__" for "." and "_D_" for "-"."""
    for name, numbers in files.items():
        name = name.replace("__", ".").replace("_D_", "-")
        form = name.lower().removesuffix(".gz").rsplit(".", 1)[1]
        content = text(numbers, form)
        (folder / name).write_bytes(
            gzip.compress(content) if name.lower().endswith(".gz") else content
        )
    return Data(name="cases", folder=str(folder))


def sizes(data: Data) -> tuple[int, int, int]:
    corpus = load_corpus(data)
    return len(corpus.sources["train"]), len(corpus.valid), len(corpus.test)


@pytest.mark.parametrize(
    "names",
    [
        ("train__jsonl", "valid__jsonl__gz", "test__json"),
        ("train__tsv", "dev__csv", "testing__ndjson"),
        ("Train__JSONL", "VALIDATION__Csv", "Test__Json__GZ"),
        ("training__csv__gz", "val__tsv__gz", "test__jsonl"),
        ("train_D_00000_D_of_D_00001__jsonl", "eval__jsonl", "test_2__jsonl"),
    ],
)
def test_a_folder_is_read_by_the_names_that_people_use(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    train, valid, test = names
    data = fill(tmp_path, **{train: range(30), valid: range(30, 40), test: range(40, 60)})
    assert sizes(data) == (30, 10, 20)
    assert load_corpus(data).notes == []


def test_parts_are_one_split_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    parts = {f"train_D_{number}__csv": range(number, number + 1) for number in (1, 2, 10, 11)}
    data = fill(
        tmp_path,
        **parts,
        validation_D_00001_D_of_D_00002__jsonl=range(60, 70),
        validation_D_00000_D_of_D_00002__jsonl=range(50, 60),
    )
    corpus = load_corpus(data)
    together = sorted(corpus.sources["train"] + corpus.test, key=lambda row: row.place)
    assert [row.key for row in corpus.valid] == [f"case {number}" for number in range(50, 70)]
    assert {row.key for row in together} == {"case 1", "case 2", "case 10", "case 11"}
    kept = [int(row.key.split()[1]) for row in corpus.sources["train"]]
    assert kept == sorted(kept)


def test_a_part_that_is_not_there_and_parts_of_two_forms_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, train_D_00001_D_of_D_00002__jsonl=range(3))
    with pytest.raises(ValueError, match="1 of 2 parts; fetch the others"):
        load_corpus(Data(name="cases", folder=str(tmp_path)))
    fill(tmp_path, train_D_00000_D_of_D_00002__csv=range(3))
    with pytest.raises(ValueError, match="both hold train rows"):
        load_corpus(Data(name="cases", folder=str(tmp_path)))


def test_of_two_files_for_a_split_the_setting_that_is_offered_chooses_one(tmp_path: Path) -> None:
    fill(tmp_path, train__jsonl=range(50), valid__jsonl=range(50, 60), valid__csv=range(60, 80))
    with pytest.raises(ValueError, match="both hold valid rows") as caught:
        load_corpus(Data(name="cases", folder=str(tmp_path)))
    offered = re.search(r"name the one to read: data\.valid=([^,]+),", str(caught.value))
    assert offered is not None
    corpus = load_corpus(Data(name="cases", folder=str(tmp_path), valid=offered[1]))
    assert len(corpus.valid) in (10, 20)


def test_what_else_lies_in_the_folder_is_named_but_for_texts_about_it(tmp_path: Path) -> None:
    data = fill(
        tmp_path,
        train__jsonl=range(30),
        valid__jsonl=range(40, 50),
        test__jsonl=range(50, 60),
        extra__jsonl=range(3),
    )
    for name in ("README.md", "LICENSE", ".hidden", "notes.txt", "test.xlsx"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "raw").mkdir()
    assert load_corpus(data).notes == [
        f"not read in {tmp_path}: extra.jsonl, notes.txt, raw/, test.xlsx"
    ]


def test_a_file_of_the_folder_that_a_setting_replaces_is_named(tmp_path: Path) -> None:
    data = fill(
        tmp_path, train__jsonl=range(30), valid__jsonl=range(40, 50), mine__jsonl=range(60, 63)
    )
    corpus = load_corpus(
        Data(
            name="cases",
            folder=data.folder,
            valid=str(tmp_path / "mine.jsonl"),
            test=str(tmp_path / "valid.jsonl"),
        )
    )
    assert (len(corpus.valid), len(corpus.test)) == (3, 10)
    corpus = load_corpus(Data(name="cases", folder=data.folder, valid=str(tmp_path / "mine.jsonl")))
    assert corpus.notes[0] == f"not read in {tmp_path}: valid.jsonl"


def test_a_folder_of_parts_or_of_folders_says_what_to_take(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fill(tmp_path / "data", train__jsonl=range(9))
    corpus = load_corpus(Data(name="cases", folder=str(tmp_path)))
    assert corpus.notes[0] == f"data.folder: read from {tmp_path}/data"
    fill(tmp_path, train__jsonl=range(9))
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="test holds no file of rows; it holds nothing; put rows"):
        load_corpus(Data(name="cases", folder=str(tmp_path)))
