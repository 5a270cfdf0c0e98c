"""Options of a source: rows to take, a filter by columns, duplicates left out; and labels' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.paths import rows_key

RECORDS = [
    {
        "prompt": f"Case {i}",
        "completion": f"A{i % 7}",
        "lang": "en" if i % 3 else "de",
        "score": i % 5,
    }
    for i in range(120)
]


def write(folder: Path, records: list[dict[str, Any]] = RECORDS, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def load(path: Path, **options: Any) -> Corpus:
    return load_corpus(Data(name="d", sources={"a": Source(path=str(path), **options)}))


def prompts(corpus: Corpus) -> list[str]:
    return [row.key for row in corpus.sources["a"]]


def test_rows_are_taken_by_their_content_and_what_is_held_out_stays_the_same(
    tmp_path: Path,
) -> None:
    path = write(tmp_path)
    everything = load(path)
    few, more, other = (
        load(path, **one)
        for one in (
            {"rows": 20},
            {"rows": 50},
            {"rows": 20, "rows_seed": 1},
        )
    )
    assert len(prompts(few)) == 20 and len(prompts(more)) == 50
    assert set(prompts(few)) < set(prompts(more)) < set(prompts(everything))
    assert set(prompts(few)) != set(prompts(other))
    assert prompts(few) == [key for key in prompts(everything) if key in prompts(few)]
    for corpus in (few, more, other):
        assert corpus.digests["test"] == everything.digests["test"]
        assert corpus.digests["valid"] == everything.digests["valid"]
        assert corpus.fingerprint != everything.fingerprint
    turned = load(write(tmp_path, RECORDS[::-1], "turned.jsonl"), rows=20)
    assert set(prompts(turned)) == set(prompts(few))
    assert any("20 of 96 rows taken" in note for note in few.notes)
    told = load(path, rows=5000).notes
    assert any("a.rows=5000, and there are 96: all are taken" in note for note in told)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({"lang": "de"}, 40),
        ({"lang": ["de", "en"]}, 120),
        ({"lang": "de", "score": [1, 2]}, 16),
        ({"score": 3}, 24),
        ({"score": "3"}, 24),
        ({"score": 3.0}, 24),
    ],
)
def test_rows_are_filtered_by_the_values_of_columns(
    tmp_path: Path, where: dict[str, Any], count: int
) -> None:
    corpus = load(write(tmp_path), where=where)
    assert len(prompts(corpus)) + len(corpus.valid) + len(corpus.test) == count
    names = list(RECORDS[0])
    lines = [",".join(names), *(",".join(map(str, one.values())) for one in RECORDS)]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(RECORDS)
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        assert load(tmp_path / name, where=where).fingerprint == corpus.fingerprint


def test_a_filter_that_fits_nothing_says_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ValueError, match=r'"lang" is fr; it holds en \(80\), de \(40\)'):
        load(path, where={"lang": "fr"})
    with pytest.raises(ValueError, match='no row has the column "lnag" of where; .* "lang"?'):
        load(path, where={"lnag": "en"})
    with pytest.raises(ValueError, match="no row that fits all of where"):
        load(write(tmp_path, RECORDS[:2]), where={"lang": "de", "score": 1})
    mixed = [{"prompt": "a", "completion": 3, "lang": "xx"}, *RECORDS]
    assert load(write(tmp_path, mixed), where={"lang": "de"}), "what is left out need not be right"


def test_repeated_rows_are_taken_once_and_contradictions_stay(tmp_path: Path) -> None:
    again = [{**one, "prompt": one["prompt"].upper()} for one in RECORDS[:30]]
    other = [{**RECORDS[0], "completion": "B1"}]
    path = write(tmp_path, [*RECORDS, *again, *other])
    corpus = load(path, deduplicate=True)
    told = "a: 30 of 151 rows dropped, the same prompt and answer stand before (deduplicate)"
    assert told in corpus.notes
    size = len(prompts(corpus)) + len(corpus.valid) + len(corpus.test)
    assert size == 121


def test_every_option_that_decides_the_rows_names_other_rows() -> None:
    def key(**options: Any) -> str:
        return rows_key(Data(name="d", sources={"a": Source(path="x", **options)}))

    changed = [
        {"rows": 3},
        {"rows": 3, "rows_seed": 1},
        {"where": {"a": 1}},
        {"deduplicate": True},
        {"label_names": ["a"]},
    ]
    keys = {key(**one) for one in ({}, *changed)}
    assert len(keys) == 6 and key(weight=0.5) == key()


def test_names_of_labels_that_nothing_needs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ValueError, match=r"data\.sources\.a\.label_names has no effect"):
        load(path, label_names=["x", "y"])
    with pytest.raises(ValueError, match=r"data\.label_names has no effect"):
        load_corpus(Data(name="d", folder=str(path), label_names=["x"]))
    bare = write(tmp_path, [{"text": f"t {i}", "label": i % 2} for i in range(30)], "bare.jsonl")
    (note,) = [note for note in load(bare).notes if "labels are whole numbers" in note]
    assert note.endswith("data.label_names=[...] gives them names, from 0")
    rows = [{"text": f"t {i}", "label": float(i % 2)} for i in range(30)]
    told = load(write(tmp_path, rows, "fractions.jsonl")).notes
    assert any('trained with their fraction, such as "' in note and '.0";' in note for note in told)
    named = load(bare, label_names=["no", "yes"])
    assert {row.answer for row in named.sources["a"]} == {"no", "yes"}
