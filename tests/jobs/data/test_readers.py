"""Files in every form that is read give the same rows: JSON, CSV, Parquet, compressed, in other
encodings.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.data.readers import normalise, read_rows, read_table
from tests.support.row_files import CHAT, GOOD, complaint, write, write_parquet


def test_a_prompt_and_a_completion_become_two_messages(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, GOOD))
    assert row.messages == (
        {"role": "user", "content": "Flu"},
        {"role": "assistant", "content": "J11"},
    )
    assert (row.answer, row.key, row.place) == ("J11", "flu", f"{tmp_path}/train.jsonl, line 1")


def test_the_instruction_stands_above_the_prompt_but_not_in_messages(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, GOOD), instruction="Which code?")
    assert row.context[0]["content"] == "Which code?\nFlu" and row.key == "flu"
    (chat,) = read_rows(write(tmp_path, json.dumps(CHAT)), instruction="Which code?")
    assert (
        list(chat.messages) == CHAT["messages"]
        and chat.key == '[["system", "be brief."], ["user", "hi"]]'
    )


def test_the_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    texts = [("Flu, mild", "J11"), ('A "cold"\nfor days', "J00"), ("Ménière\u2028again", "H81")]
    lines = "\n".join(
        json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False)
        for prompt, answer in texts
    )
    quoted = "\n".join(
        '"{}","{}"'.format(prompt.replace('"', '""'), answer) for prompt, answer in texts
    )
    jsonl = read_rows(write(tmp_path, lines))
    comma = read_rows(write(tmp_path, "prompt,completion\n" + quoted, "train.csv"))
    parquet = read_rows(
        write_parquet(
            tmp_path,
            {"prompt": [text for text, _ in texts], "completion": [code for _, code in texts]},
        )
    )
    assert (
        [row.messages for row in jsonl]
        == [row.messages for row in comma]
        == [row.messages for row in parquet]
    )
    assert [row.answer for row in jsonl] == ["J11", "J00", "H81"]


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_read_over(tmp_path: Path) -> None:
    rows = read_rows(
        write(
            tmp_path,
            b"\xef\xbb\xbf\r\n"
            + GOOD.replace("\n", "\r\n").encode() * 2
            + b"  \n\n"
            + GOOD.encode(),
        )
    )
    assert [row.place[-6:] for row in rows] == ["line 2", "line 3", "line 6"]
    comma = read_rows(
        write(tmp_path, b"\xef\xbb\xbfid,prompt,completion\r\n1,Flu,J11\r\n\r\n", "train.csv")
    )
    assert [row.messages for row in comma] == [rows[0].messages]


def test_parquet_messages_lose_the_nulls_that_parquet_adds(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "Yes?", "name": None},
    ]
    (row,) = read_rows(write_parquet(tmp_path, {"messages": [messages]}))
    assert row.messages == (messages[0], {"role": "assistant", "content": "Yes?"})


def test_prompts_are_compared_without_case_and_spacing_but_with_signs() -> None:
    assert normalise("  The\n Flu ") == normalise("the flu") == "the flu"
    assert normalise("2 + 2") != normalise("2 - 2")


def test_a_json_array_is_read_whatever_the_file_is_called_and_told_apart_from_broken_lines(
    tmp_path: Path,
) -> None:
    lines = read_rows(write(tmp_path, GOOD * 3))
    array = "[\n" + ",".join([GOOD] * 3) + "]"
    for name in ("a.json", "b.jsonl", "c.ndjson"):
        rows = read_rows(write(tmp_path, array, name))
        assert [row.messages for row in rows] == [row.messages for row in lines]
        assert rows[2].place == f"{tmp_path}/{name}, row 3"
    assert len(read_rows(write(tmp_path, GOOD * 3, "lines.json"))) == 3
    assert 'row 1: has no answer: "completion" is missing' in complaint(
        write(tmp_path, '[\n{"prompt": "Flu"}\n]')
    )
    assert (
        "line 2: broken JSON" in (found := complaint(write(tmp_path, '[\n{"prompt": }\n]')))
        and "one JSON array" in found
    )
    assert 'the file is one JSON object, whose rows may be in "data"' in complaint(
        write(tmp_path, '{\n"data": [\n{"prompt": "a"}]}', "x.json")
    )


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_read_whatever_it_is_called(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (row,) = read_rows(write(tmp_path, GOOD))
    for name in ("train.jsonl", "train.JSONL.GZ", "x.jsonl.xz"):
        assert read_rows(write(tmp_path, pack(GOOD.encode()), name))[0].messages == row.messages
        twice = pack(gzip.compress(GOOD.encode()))
        assert read_rows(write(tmp_path, twice, name))[0].messages == row.messages
    assert "cannot be unpacked" in complaint(write(tmp_path, pack(GOOD.encode() * 99)[:-12]))
    assert read_rows(write(tmp_path, GOOD, "plain.jsonl.gz"))[0].messages == row.messages


def test_tables_with_tabs_are_read_like_those_with_commas(tmp_path: Path) -> None:
    rows = read_rows(
        write(tmp_path, 'id\tprompt\tcompletion\n1\tFlu, mild\tJ11\n2\t"a\tb"\tJ12\n', "train.tsv")
    )
    assert [(row.key, row.answer) for row in rows] == [("flu, mild", "J11"), ("a b", "J12")]


@pytest.mark.parametrize("name", ["train.tsv", "train.csv"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_first_line_says_what_separates_fields(tmp_path: Path, name: str, mark: str) -> None:
    content = f'prompt{mark}completion\nFlu{mark}J11\n"A{mark}B"{mark}J12\n'
    rows = read_rows(write(tmp_path, content, name))
    assert [(row.context[0]["content"], row.answer) for row in rows] == [
        ("Flu", "J11"),
        (f"A{mark}B", "J12"),
    ]


def test_a_name_of_a_column_is_shown_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    from jobs.data.source_reading import column_notes

    row = '{"prompt": "a", "completion": "b", "x\\u001b[31m": 1, "y\\ud800": 2, "größe": 3}\n'
    (note,) = column_notes({"sources.train": read_table(write(tmp_path, row))})
    assert note.endswith('"größe" (1), "x\\x1b[31m" (1), "y\\ud800" (1)')
    note.encode()


def test_columns_that_are_not_read_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b", "id": 1},
        {"prompt": "c", "completion": "d", "id": 2, "source": "x"},
    ]
    lines = read_table(write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    comma = read_table(write(tmp_path, "prompt,completion,id,source\na,b,1,\nc,d,2,x\n", "a.csv"))
    table = {
        "prompt": ["a", "c"],
        "completion": ["b", "d"],
        "id": [1, 2],
        "source": [None, "x"],
        "empty": [None, None],
    }
    assert (
        lines.unused
        == comma.unused
        == +read_table(write_parquet(tmp_path, table)).unused
        == {"id": 2}
    )
    assert [row.source for row in lines.rows] == [row.source for row in comma.rows] == ["", "x"]
    assert [row.source for row in read_table(write_parquet(tmp_path, table)).rows] == ["", "x"]


def test_columns_without_a_name_are_told_by_their_places(tmp_path: Path) -> None:
    """As pandas writes an index, and a spreadsheet what stands beside the table."""
    counted = {"column 1 without a name": 2, "column 4 without a name": 1}
    rows = ",prompt,completion,\n0,Flu,J11,\n1,Cold,J00,x\n"
    for name, content in (("a.csv", rows), ("a.tsv", rows.replace(",", "\t"))):
        assert read_table(write(tmp_path, content, name)).unused == counted
    import pyarrow
    import pyarrow.parquet

    columns = [["0", "1"], ["Flu", "Cold"], ["J11", "J00"], [None, "x"]]
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(column) for column in columns], names=["", "prompt", "completion", ""]
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = read_table(tmp_path / "a.parquet")
    assert found.unused == counted and len(found.rows) == 2


@pytest.mark.parametrize("name", ["prompt", "completion", "note"])
def test_two_columns_of_one_name_are_refused_in_every_form(tmp_path: Path, name: str) -> None:
    line = f"prompt,completion,note,{name}\nFlu,J11,x,y\n"
    twice = f'"{name}" as the name of 2 columns'
    assert twice in complaint(write(tmp_path, line, "a.csv"))
    assert twice in complaint(write(tmp_path, line.replace(",", "\t"), "a.tsv"))
    entries = '{"prompt": "Flu", "completion": "J11", "note": "x", "?": "y"}'.replace("?", name)
    for form in (f"{entries}\n", f"[{entries}]", f"{entries}\n{entries}\n"):
        said = complaint(write(tmp_path, form, "a.jsonl"))
        assert f'"{name}" stands in one object twice; keep one of the two' in said


def test_null_beside_the_columns_of_a_row_is_nothing_and_two_rows_in_one_are_refused(
    tmp_path: Path,
) -> None:
    pair = {"prompt": "a", "completion": "b"}
    (row,) = read_rows(write(tmp_path, json.dumps({"messages": None, **pair})))
    assert row.answer == "b"
    (chat,) = read_rows(write(tmp_path, json.dumps({"prompt": None, "completion": None, **CHAT})))
    assert chat.answer == "Yes?"
    both = write_parquet(
        tmp_path,
        {"prompt": ["a", None], "completion": ["b", None], "messages": [None, CHAT["messages"]]},
    )
    assert "a mix of formats: row 1 holds" in complaint(both)
    for extra in (pair, {"completion": "b"}):
        message = complaint(write(tmp_path, json.dumps({**extra, **CHAT})))
        assert 'has "messages" and' in message and "leave one out, or set it to null" in message
    assert '"messages" must be a list, got null' in complaint(write(tmp_path, '{"messages": null}'))


def test_text_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 2: not UTF-8; save the file as UTF-8 (iconv -f WINDOWS-1252" in complaint(
        write(tmp_path, GOOD.encode() + b'{"prompt": "M\xe9ni\xe8re"}\n')
    )
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):  # these say themselves what they are
        assert read_rows(write(tmp_path, GOOD.encode(encoding)))[0].answer == "J11"
