"""Rows that nothing can be made of: refused, or named and skipped up to a limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus

GOOD = [json.dumps({"prompt": f"question {i}", "completion": f"answer {i}"}) for i in range(40)]
BROKEN = '{"prompt": "no end'
UNANSWERED = json.dumps({"prompt": "asked", "completion": ""})


def written(folder: Path, *bad: str) -> Path:
    file = folder / "train.jsonl"
    file.write_text("\n".join([*GOOD[:20], *bad, *GOOD[20:]]) + "\n", encoding="utf-8")
    return file


def data_of(file: Path, bad_rows: int) -> Data:
    return Data(name="toy", sources={"train": Source(path=str(file))}, bad_rows=bad_rows)


def test_a_bad_row_is_named_and_skipped_where_that_is_allowed(tmp_path: Path) -> None:
    file = written(tmp_path, BROKEN, UNANSWERED)
    corpus = load_corpus(data_of(file, 2))
    (note,) = (note for note in corpus.notes if "skipped" in note)
    assert note.startswith("train: 2 rows were skipped (data.bad_rows=2): ")
    assert f"{file}, line 21: broken JSON" in note and f"{file}, line 22: has no answer" in note
    (tmp_path / "clean").mkdir()
    clean = load_corpus(data_of(written(tmp_path / "clean"), 0))
    assert clean.fingerprint == corpus.fingerprint, "what is left is as if they had never been"


def test_one_bad_row_more_than_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    file = written(tmp_path, BROKEN, UNANSWERED)
    with pytest.raises(ValueError) as caught:
        load_corpus(data_of(file, 1))
    assert "more rows than data.bad_rows=1 cannot be used" in str(caught.value)
    assert "line 21" in str(caught.value) and "line 22" in str(caught.value)


@pytest.mark.parametrize("bad", [BROKEN, UNANSWERED])
def test_without_a_limit_the_first_one_is_refused_with_the_setting_that_skips_all(
    tmp_path: Path, bad: str
) -> None:
    file = written(tmp_path, bad)
    with pytest.raises(ValueError) as caught:
        load_corpus(data_of(file, 0))
    assert "line 21" in str(caught.value)
    assert str(caught.value).endswith("; or skip it: data.bad_rows=1")
    file = written(tmp_path, *[bad] * 30)
    with pytest.raises(ValueError, match="line 21.*skip the 30 rows .*: data.bad_rows=30$"):
        load_corpus(data_of(file, 0))
    assert len(load_corpus(data_of(file, 30)).sources["train"]) == 32
    with pytest.raises(ValueError) as caught:
        load_corpus(data_of(written(tmp_path, *[bad] * 41), 0))
    assert "data.bad_rows" not in str(caught.value), "most rows are bad: they are read wrongly"


def test_the_first_bad_row_is_told_before_what_ends_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label\na,\nb,c,d\n", encoding="utf-8")
    with pytest.raises(ValueError, match='line 2: has no answer: "label" is empty'):
        load_corpus(data_of(file, 0))


def test_a_file_of_bad_rows_alone_is_still_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(f"{UNANSWERED}\n{UNANSWERED}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no rows"):
        load_corpus(data_of(file, 5))
