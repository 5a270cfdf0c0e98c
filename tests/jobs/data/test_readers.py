"""Files are read into rows, and a file that cannot be says where and what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.data.readers import normalise, read_rows, read_table

GOOD = '{"prompt": "Flu", "completion": "J11"}\n'
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
    ]
}


def write(folder: Path, content: str | bytes, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_rows(path)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)
    return str(caught.value)


def write_parquet(folder: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


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
        ('{"question": "Flu", "answer": "J11"}', 'found "question", "answer"'),
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
        ('{"prompt": null, "completion": "J11"}', '"prompt" must be text, got null'),
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
        ("Hi", '"messages" must be a list, got text (Hi)'),
        (CHAT["messages"][:2], 'has no answer: the last message is from "user"'),
        (
            [CHAT["messages"][1], {"role": "assistant", "content": " "}],
            "has no answer: the last message is empty",
        ),
        ([CHAT["messages"][2]], "has no prompt"),
        (["Hi", "Yes?"], "message 1 must be an object with role and content, got text (Hi)"),
        (
            [{"from": "user", "value": "Hi"}, CHAT["messages"][2]],
            'message 1 has no "role"; found "from", "value"',
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


def test_an_entry_that_stands_in_one_object_twice_is_refused(tmp_path: Path) -> None:
    twice = '{"prompt": "Flu", "completion": "J11", "completion": "J12"}\n'
    assert 'line 2: broken JSON: "completion" stands in one object twice' in complaint(
        write(tmp_path, GOOD + twice)
    )


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_read_whatever_it_is_called(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (row,) = read_rows(write(tmp_path, GOOD))
    for name in ("train.jsonl", "train.JSONL.GZ", "x.jsonl.xz"):
        assert read_rows(write(tmp_path, pack(GOOD.encode()), name))[0].messages == row.messages
    assert "cannot be unpacked" in complaint(write(tmp_path, pack(GOOD.encode() * 99)[:-12]))
    assert read_rows(write(tmp_path, GOOD, "plain.jsonl.gz"))[0].messages == row.messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1....", "is a Parquet file; give it a name that ends in .parquet"),
        (b"\x28\xb5\x2f\xfd...", "unpack it with: zstd -d"),
        (b"PK\x03\x04...", "a ZIP archive or a workbook"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run: git lfs pull"),
        (GOOD.encode("utf-16-le"), "line 1: holds a NUL byte; it looks like UTF-16"),
        (
            GOOD.encode() + b'{"prompt": "a\0b", "completion": "c"}\n',
            "line 2: holds a NUL byte; the file is damaged",
        ),
        (b"\xff\xfea", "begins as UTF-16 does, and is none"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    for name in ("train.jsonl", "train.csv"):
        assert message in complaint(write(tmp_path, content, name))


def test_tables_with_tabs_are_read_like_those_with_commas(tmp_path: Path) -> None:
    rows = read_rows(
        write(tmp_path, 'id\tprompt\tcompletion\n1\tFlu, mild\tJ11\n2\t"a\tb"\tJ12\n', "train.tsv")
    )
    assert [(row.key, row.answer) for row in rows] == [("flu, mild", "J11"), ("a b", "J12")]
    assert "separate them with tabs" in complaint(
        write(tmp_path, "prompt,completion\nFlu,J11\n", "train.tsv")
    )


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "question,answer\nFlu,J11\n",
            'needs the columns "prompt" and "completion", found "question", "answer"',
        ),
        ("prompt;completion\nFlu;J11\n", 'found "prompt;completion"'),
        ("prompt,completion\nFlu, mild,J11\n", "line 2: more fields than columns"),
        ("prompt,completion\nFlu\n", "line 2: has no answer: fewer fields than columns"),
        ("completion,prompt\nJ11\n", "line 2: has no prompt: fewer fields than columns"),
        ("\n\r\nprompt,completion\nFlu, mild,J11\n", "line 4: more fields than columns"),
        ("messages\nx\n", "conversations go into a .jsonl or .parquet file"),
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
