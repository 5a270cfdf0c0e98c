"""Splits that are cut from rows with near-twins: those stay together where many would be torn apart,
and all other files are cut as ever.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.check_settings import Checks
from jobs.config import Data
from jobs.data.checks import leakage
from jobs.data.corpus import Corpus, load_corpus
from tests.support.own_files import write_lines

WORDS = [
    "lamp",
    "kitchen",
    "order",
    "refund",
    "parcel",
    "invoice",
    "late",
    "broken",
    "screen",
    "battery",
    "phone",
    "login",
]


def tickets(num_twins: int, seed: int = 2) -> list[dict[str, str]]:
    """Four hundred tickets, so many of which were typed again with a capital and a mark."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=9)) + f" {number}" for number in range(400)]
    again = [f"{text.capitalize()}!" for text in texts[:num_twins]]
    return [{"text": text, "label": "abc"[len(text) % 3]} for text in (*texts, *again)]


def cut(folder: Path, rows: Sequence[dict[str, str]], checks: Checks | None = None) -> Corpus:
    """The rows after splits are cut from them."""
    file = write_lines(folder / "tickets.jsonl", list(rows))
    return load_corpus(Data(name="mine", folder=str(file), checks=checks or Checks()))


def texts(corpus: Corpus) -> list[set[str]]:
    """What the rows of each split ask."""
    return [
        {row.key for row in rows} for rows in (corpus.valid, corpus.test, *corpus.sources.values())
    ]


def test_near_twins_that_a_cut_would_tear_apart_stay_on_one_side(tmp_path: Path) -> None:
    corpus = cut(tmp_path, tickets(60))
    result = leakage.check(corpus)
    assert not leakage.refusal(result.numbers, result.details, 0.05)
    assert (result.numbers["valid"]["leaked"], result.numbers["test"]["leaked"]) == (0, 0)
    valid, test, train = texts(corpus)
    assert len(corpus.valid) in (45, 46) and len(corpus.test) in (45, 46)
    for here, there in ((valid, train), (test, train), (valid, test)):
        assert not {key.rstrip("!") for key in here} & {key.rstrip("!") for key in there}
    cuts = [note for note in corpus.notes if " cut from " in note]
    assert all(", near-twins kept together (train 4" in note for note in cuts) and len(cuts) == 2


@pytest.mark.parametrize(
    ("num_twins", "checks"), [(0, None), (8, None), (60, Checks(off=["leakage"]))]
)
def test_all_other_rows_are_cut_as_ever(
    tmp_path: Path, num_twins: int, checks: Checks | None
) -> None:
    rows = tickets(num_twins)
    corpus = cut(tmp_path, rows, checks)
    assert not any("near-twins" in note for note in corpus.notes if " cut from " in note)
    if num_twins:
        alone = cut(tmp_path / "alone", rows, Checks(off=["leakage"]))
        assert alone.fingerprint == corpus.fingerprint


def test_rows_that_are_all_one_are_left_to_the_check(tmp_path: Path) -> None:
    rows = [{"text": "it is late" + "!" * number, "label": "a"} for number in range(40)]
    corpus = cut(tmp_path, rows)
    result = leakage.check(corpus)
    assert leakage.refusal(result.numbers, result.details, 0.05)
