"""What holds for any text and any bytes: what is written in one form of file is read as it was, and
what cannot be read is said, whatever it is.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.readers import read_rows
from jobs.data.shares import Shares, phases_of
from tests.support.properties import attempt, drawn

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=60)
PAIRS = st.lists(
    st.tuples(TEXTS, TEXTS).filter(lambda pair: all(text.strip() for text in pair)),
    min_size=1,
    max_size=8,
)
NAMES = st.sampled_from(
    ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.jsonl.gz", "a.jsonl.zst")
)


def read(name: str, content: bytes) -> list[tuple[str, str]]:
    """Prompts and answers of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return [(row.messages[0]["content"], row.messages[1]["content"]) for row in read_rows(path)]


def table(pairs: list[tuple[str, str]], between: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=between).writerows([("prompt", "completion"), *pairs])
    return text.getvalue().encode()


@drawn
@given(PAIRS)
def test_json_lines_and_an_array_are_read_as_they_were_written(
    pairs: list[tuple[str, str]],
) -> None:
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    assert read("a.jsonl", lines) == read("a.json", json.dumps(rows).encode())
    assert [tuple(map(str.strip, pair)) for pair in read("a.jsonl", lines)] == [
        tuple(map(str.strip, pair)) for pair in pairs
    ]


@drawn
@given(PAIRS, st.sampled_from((("a.csv", ","), ("a.tsv", "\t"))))
def test_a_table_gives_the_rows_of_the_same_json_lines_or_says_why_not(
    pairs: list[tuple[str, str]], form: tuple[str, str]
) -> None:
    name, between = form
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = attempt(lambda: read(name, table(pairs, between)), ValueError)
    if isinstance(found, Exception):
        assert str(found) and "\n" not in str(found)
        return
    assert [tuple("".join(text.split()) for text in pair) for pair in found] == [
        tuple("".join(text.split()) for text in pair) for pair in read("a.jsonl", lines)
    ]


@drawn
@given(NAMES, st.binary(max_size=400))
def test_any_bytes_are_rows_or_one_sentence(name: str, content: bytes) -> None:
    found = attempt(lambda: read_rows_of(name, content), ValueError)
    assert found is None or (type(found) is ValueError and "\n" not in str(found))


def read_rows_of(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        read_rows(path)


@drawn
@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.integers(1, 500), st.floats(0.01, 10), st.integers(1, 900)),
        min_size=1,
    ),
    st.booleans(),
)
def test_no_source_gives_more_than_it_may_and_all_of_it_where_nothing_stops(
    sources: dict[str, tuple[int, float, int]], stops: bool
) -> None:
    sizes = {name: size for name, (size, _, _) in sources.items()}
    weights = {name: weight for name, (_, weight, _) in sources.items()}
    limits = {name: limit for name, (_, _, limit) in sources.items()}
    phases = phases_of(Shares(weights, None, limits, stops), sizes)
    given_by = dict.fromkeys(sorted(sources), 0)
    start = 0
    for phase in phases:
        assert phase.start == start, "no gap between two phases"
        assert phase.walked == tuple(given_by.values())
        for name, quota in zip(sorted(sources), phase.quotas, strict=True):
            given_by[name] += int(quota * phase.num_blocks)
        start += int(phase.size)
    assert all(given_by[name] <= limits[name] for name in sources)
    used_up = [name for name in sources if given_by[name] == limits[name]]
    assert used_up if stops else len(used_up) == len(sources)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_of_a_million_characters_is_read(name: str) -> None:
    long = "word " * 200_000
    content = table([(long, "x")], ",")
    if name == "a.jsonl":
        content = (json.dumps({"prompt": long, "completion": "x"}) + "\n").encode()
    assert [len(prompt.strip()) for prompt, _ in read(name, content)] == [len(long.strip())]
