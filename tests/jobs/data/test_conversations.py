"""Rows of one conversation stay on one side of a split, and rows that only begin alike do not count
as one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data
from jobs.data.conversations import groups_of
from jobs.data.corpus import load_corpus
from jobs.data.messages import Malformed, read_message
from jobs.data.readers import Row, context_key

Turns = list[tuple[str, str]]


def messages(turns: Turns) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in turns]


def conversation(name: str, length: int, system: str | None = None) -> list[Turns]:
    """A conversation written out once per turn."""
    turns: Turns = [] if system is None else [("system", system)]
    rows = []
    for turn in range(length):
        turns = [*turns, ("user", f"{name} asks {turn}"), ("assistant", f"answer {turn % 3}")]
        rows.append(turns)
    return rows


def write(folder: Path, **files: list[Turns]) -> Data:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps({"messages": messages(turns)}) for turns in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Data(name="cases", folder=str(folder))


def as_rows(rows: list[Turns]) -> list[Row]:
    return [Row(tuple(messages(turns)), context_key(messages(turns)[:-1]), "x") for turns in rows]


def names(rows: list[Row]) -> set[str]:
    """The names of the conversations that rows are of."""
    return {
        message["content"].split()[0]
        for row in rows
        for message in row.messages
        if message["role"] == "user"
    }


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_cut_takes_whole_conversations(tmp_path: Path, system: str | None) -> None:
    rows = [
        turns
        for number in range(30)
        for turns in conversation(f"c{number}", 1 + number % 4, system)
    ]
    corpus = load_corpus(write(tmp_path, train=rows))
    sides = [names(corpus.sources["train"]), names(corpus.valid), names(corpus.test)]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides)) == 30
    assert "conversations kept whole" in corpus.notes[0]


def test_branches_of_a_conversation_are_one_even_without_its_beginning(tmp_path: Path) -> None:
    start: Turns = [("user", "root asks"), ("assistant", "yes")]
    branches = [[*start, ("user", f"branch {number}"), ("assistant", "no")] for number in range(4)]
    others = [turns for number in range(12) for turns in conversation(f"c{number}", 2)]
    groups = groups_of([as_rows(branches + others)])
    assert len({groups[row.key] for row in as_rows(branches)}) == 1
    assert len({groups[row.key] for row in as_rows(others)}) == 12


def test_training_rows_of_a_held_out_conversation_are_dropped_and_counted(tmp_path: Path) -> None:
    train = [turns for number in range(20) for turns in conversation(f"c{number}", 3)]
    data = write(tmp_path, train=train[:-1], test=[train[-1]], valid=[conversation("c3", 4)[3]])
    corpus = load_corpus(data)
    assert names(corpus.sources["train"]) == {f"c{number}" for number in range(20)} - {"c3", "c19"}
    assert corpus.notes == [
        "train: 5 of 59 rows dropped, their conversation stands in valid or test"
    ]


def test_a_constant_beginning_is_no_conversation(tmp_path: Path) -> None:
    shots: Turns = [
        ("system", "Sort."),
        ("user", "An example"),
        ("assistant", "a"),
        ("user", "Another"),
        ("assistant", "b"),
    ]
    for size in (5, 40):
        rows: list[Turns] = [
            [*shots, ("user", f"case{number}"), ("assistant", "abc"[number % 3])]
            for number in range(size)
        ]
        assert groups_of([as_rows(rows)]) == {}
    corpus = load_corpus(write(tmp_path, train=rows[:30], valid=rows[30:35], test=rows[35:]))
    assert (len(corpus.sources["train"]), len(corpus.valid), len(corpus.test), corpus.notes) == (
        30,
        5,
        5,
        [],
    )
    greeted: list[Turns] = [
        [("user", "Hi"), ("assistant", "Hello!")],
        *([*[("user", "Hi"), ("assistant", "Hello!")], *turns] for turns in rows),
    ]
    assert groups_of([as_rows(greeted)]) == {}


def test_the_same_system_message_or_instruction_makes_no_conversation(tmp_path: Path) -> None:
    rows: list[Turns] = [
        [("system", "Sort."), ("user", f"case{number}"), ("assistant", "a")] for number in range(40)
    ]
    assert groups_of([as_rows(rows)]) == {}
    corpus = load_corpus(write(tmp_path, train=rows))
    assert (len(corpus.sources["train"]), len(corpus.valid), len(corpus.test)) == (32, 4, 4)


def test_prompts_that_differ_in_any_message_are_two(tmp_path: Path) -> None:
    def about(table: int) -> Turns:
        return [
            ("system", f"Schema: {table}"),
            ("user", "How many rows?"),
            ("assistant", "SELECT 1"),
        ]

    corpus = load_corpus(
        write(
            tmp_path,
            train=[about(n) for n in range(20)],
            valid=[about(30)],
            test=[about(40), about(3)],
        )
    )
    assert (len(corpus.sources["train"]), len(corpus.valid), len(corpus.test)) == (19, 1, 2)
    assert corpus.notes == ["train: 1 of 20 rows dropped, their prompt stands in valid or test"]


def test_roles_tools_and_calls_are_part_of_a_prompt() -> None:
    ask = {"role": "user", "content": "Hi"}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": None}}}],
    }
    bare = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
    }
    assert context_key([ask]) == "hi"
    assert context_key([ask, call]) == context_key([ask, bare])
    distinct = [
        context_key([ask]),
        context_key([ask], [{"name": "f"}]),
        context_key([ask], [{"name": "g"}]),
        context_key([ask, call]),
        context_key([ask, {**call, "tool_calls": []}]),
        context_key([{"role": "system", "content": ""}, ask]),
        context_key([{"role": "system", "content": "hi"}]),
        context_key([{"role": "user", "content": "H"}, {"role": "user", "content": "i"}]),
    ]
    assert len(set(distinct)) == len(distinct)


def test_a_hundred_thousand_rows_are_grouped_in_seconds() -> None:
    rows = as_rows([turns for number in range(25_000) for turns in conversation(f"c{number}", 4)])
    began = time.perf_counter()
    groups = groups_of([rows])
    assert len(set(groups.values())) == 25_000
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize(
    ("role", "name"), [("human", "user"), ("Human", "user"), ("gpt", "assistant"), ("bot", "assis")]
)
def test_a_role_that_no_template_knows_is_refused_with_its_name(role: str, name: str) -> None:
    with pytest.raises(Malformed, match=f'the role "{role}", which chat templates call "{name}'):
        read_message({"role": role, "content": "hi"}, 1)
