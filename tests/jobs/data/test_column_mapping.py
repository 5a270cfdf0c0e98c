"""data.columns: a mapping of columns or Jinja templates over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus
from jobs.data.readers import Reading, read_table
from jobs.source_rows import Columns
from tests.support.row_files import write, write_parquet

ROW = {
    "title": "It broke",
    "body": "A lamp",
    "tags": ["new", "old"],
    "team": "refund",
    "note": None,
}


def texts(path: Path, **columns: str) -> list[tuple[str, str]]:
    """What the messages of the file's only row are."""
    (row,) = read_table(path, reading=Reading(Columns(**columns))).rows
    return [(message["role"], message["content"]) for message in row.messages]


def refusal(path: Path, **columns: str) -> str:
    """Why a file cannot be read with these columns."""
    with pytest.raises(ValueError) as caught:
        read_table(path, reading=Reading(Columns(**columns)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_columns_and_templates_give_the_prompt_and_the_answer(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(ROW))
    assert texts(path, prompt="title", completion="team") == [
        ("user", "It broke"),
        ("assistant", "refund"),
    ]
    prompt = "{{ title }}: {{ body }}{% if note %} ({{ note }}){% endif %} {{ tags | join('/') }}"
    expected = [("user", "It broke: A lamp new/old"), ("assistant", "refund")]
    assert texts(path, prompt=prompt, completion="{{ team }}{{ note }}") == expected
    assert texts(path, prompt="{{ row['title'] }}", completion="team", system="body")[0] == (
        "system",
        "A lamp",
    )
    assert texts(path, prompt="{{ missing | default('x') }}", completion="team")[0] == ("user", "x")
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]
    chat = write(tmp_path, json.dumps({"log": talk, "messages": "other"}), "chat.jsonl")
    assert texts(chat, messages="log") == [("user", "Hi"), ("assistant", "Yes?")]


def test_all_kinds_of_files_are_mapped_alike(tmp_path: Path) -> None:
    columns = {"prompt": "{{ title }}: {{ count }}", "completion": "team"}
    records = [{"title": "a", "count": 1, "team": 0}, {"title": "b", "count": 2, "team": 1}]
    jsonl = write(tmp_path, "".join(json.dumps(record) + "\n" for record in records))
    comma = write(tmp_path, "title,count,team\na,1,0\nb,2,1\n", "a.csv")
    by_name = {name: [record[name] for record in records] for name in records[0]}
    reading = Reading(Columns(**columns), ("refund", "wait"))
    for path in (jsonl, comma, write_parquet(tmp_path, by_name)):
        rows = read_table(path, reading=reading).rows
        assert [(row.context[0]["content"], row.answer) for row in rows] == [
            ("a: 1", "refund"),
            ("b: 2", "wait"),
        ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prompt": "titel", "completion": "team"},
            'has no column "titel"; found "title", "body", "tags", "team", "note"; did you mean',
        ),
        ({"prompt": "title", "completion": "taem"}, 'did you mean "team"?'),
        (
            {"prompt": "{{ titel }}", "completion": "team"},
            "the template data.columns.prompt fails: 'titel' is undefined; the row has \"title\"",
        ),
        (
            {"prompt": "{{ title ", "completion": "team"},
            "data.columns.prompt is no template: unexpected end of template",
        ),
        (
            {"prompt": "{{ title.__class__.__mro__ }}", "completion": "team"},
            "access to attribute '__class__' of 'str' object is unsafe",
        ),
        (
            {"prompt": "{{ 1 / 0 }}", "completion": "team"},
            "the template data.columns.prompt fails: division by zero",
        ),
        (
            {"prompt": "{% for i in range(10**9) %}x{% endfor %}", "completion": "team"},
            "the template data.columns.prompt fails: Range too big",
        ),
        ({"prompt": "tags", "completion": "team"}, '"tags" must be text, got a list; a template'),
        ({"prompt": "title", "completion": "note"}, 'has no answer: "note" is null'),
        ({"messages": "title"}, '"title" is a text that is no JSON'),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_with_the_remedy(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    assert message in refusal(write(tmp_path, json.dumps(ROW)), **columns)


def test_an_unknown_column_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "title,team\n", "a.csv")
    said = refusal(path, prompt="{{ titel }}", completion="team")
    assert said == (
        f'{path}: data.columns.prompt: there is no column "titel"; found "title", "team"; did you '
        'mean "title"?'
    )


def test_a_source_has_columns_of_its_own(tmp_path: Path) -> None:
    for name, fields in (("a", ("q", "a")), ("b", ("x", "y"))):
        lines = [json.dumps({fields[0]: f"{name} {i}", fields[1]: str(i % 3)}) for i in range(30)]
        write(tmp_path, "\n".join(lines), f"{name}.jsonl")

    def corpus(**sources: Columns) -> Any:
        named = {
            name: Source(path=str(tmp_path / f"{name}.jsonl"), columns=columns)
            for name, columns in sources.items()
        }
        return load_corpus(
            Data(name="d", sources=named, columns=Columns(prompt="q", completion="a"))
        )

    made = corpus(a=Columns(), b=Columns(prompt="x", completion="{{ y }}"))
    assert made.shapes == {
        "sources.a": "data.columns says: prompt=q, completion=a",
        "sources.b": "data.columns says: prompt=x, completion={{ y }}",
    }
    assert {row.key[0] for row in made.sources["b"]} == {"b"}
    with pytest.raises(ValueError, match='has no column "q"; found "x", "y"'):
        corpus(b=Columns())
    with pytest.raises(ValueError, match=r"data\.columns has no effect: every source has columns"):
        corpus(b=Columns(prompt="x", completion="y"))
