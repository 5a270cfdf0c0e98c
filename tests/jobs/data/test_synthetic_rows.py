"""Rows with `provenance`: read like others, known to be synthetic, never held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus
from jobs.data.readers import read_table
from tests.support.row_files import write_parquet
from tests.support.synthesis import write_rows

ORIGIN = {
    "teacher": "t",
    "recipe": "paraphrase",
    "seed": "train: train.jsonl, line 1",
    "scores": {},
}


def real(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"question {n}", "completion": "ab"[n % 2]} for n in range(count)]


def synthetic(count: int) -> list[dict[str, object]]:
    return [
        {"prompt": f"synthetic question {n}", "completion": "a", "provenance": ORIGIN}
        for n in range(count)
    ]


def test_provenance_is_a_known_column_in_every_form(tmp_path: Path) -> None:
    lines = read_table(write_rows(tmp_path / "a.jsonl", [*real(1), *synthetic(2)]))
    assert [row.synthetic for row in lines.rows] == [False, True, True] and not lines.unused
    columns = {
        "prompt": ["a", "b"],
        "completion": ["x", "y"],
        "provenance": [None, ORIGIN | {"scores": {"x": 1.0}}],
    }
    table = read_table(write_parquet(tmp_path, columns))
    assert [row.synthetic for row in table.rows] == [False, True] and not table.unused
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    chats = read_table(write_rows(tmp_path / "c.jsonl", [chat, chat | {"provenance": ORIGIN}]))
    assert [row.synthetic for row in chats.rows] == [False, True] and not chats.unused
    text = tmp_path / "d.csv"
    text.write_text('prompt,completion,provenance\nq,a,"{""teacher"": ""t""}"\nr,b,\n')
    assert [row.synthetic for row in read_table(text).rows] == [True, False]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_held_out_file_with_synthetic_rows_is_refused(split: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", real(40))
    write_rows(tmp_path / f"{split}.jsonl", [{"prompt": "z", "completion": "a"}, *synthetic(3)])
    with pytest.raises(ValueError) as caught:
        load_corpus(Data(name="x", folder=str(tmp_path)))
    said = str(caught.value)
    assert said.startswith(f"data.{split}: ") and f"{split}.jsonl, line 2: a synthetic row" in said
    assert "3 of 4 rows" in said and "move these to a training source" in said


def test_synthetic_rows_alone_leave_nothing_to_be_judged_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", synthetic(40))
    with pytest.raises(ValueError, match="0 different prompts of real rows .*never held out"):
        load_corpus(Data(name="x", folder=str(tmp_path)))


def test_held_out_rows_are_cut_from_real_rows_alone_and_stay_the_same(tmp_path: Path) -> None:
    train = Source(path=str(write_rows(tmp_path / "train.jsonl", real(60))))
    twin = {"prompt": "QUESTION 7", "completion": "b", "provenance": ORIGIN}
    alone = load_corpus(Data(name="x", sources={"train": train}))
    held_out = {row.key for row in (*alone.valid, *alone.test)}
    every = [{"prompt": key.upper(), "completion": "a", "provenance": ORIGIN} for key in held_out]
    more = write_rows(tmp_path / "synthetic.jsonl", [*synthetic(500), twin, *every])
    mixed = load_corpus(Data(name="x", sources={"train": train, "s": Source(path=str(more))}))
    assert mixed.digests["valid"] == alone.digests["valid"]
    assert mixed.digests["test"] == alone.digests["test"]
    assert not any(row.synthetic for row in (*mixed.valid, *mixed.test))
    assert not held_out & {row.key for row in mixed.sources["s"]}
    assert any("synthetic rows dropped, their prompt stands in" in note for note in mixed.notes)
