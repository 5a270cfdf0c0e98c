"""Files in the shapes that people have: what each is read as, the rendered example, the tokens that
carry loss and the number of rows, with three chat templates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.data.chat_template import ChatTokenizer
from jobs.data.readers import Reading, read_table
from jobs.data.tokenization import encode_rows
from jobs.source_rows import Columns
from tests.support.chat_templates import CALLING, CHATML, GEMMA, LLAMA, make_model
from tests.support.row_files import complaint, write, write_parquet

Said = list[tuple[str, str]]
PAIR: Said = [("user", "It broke"), ("assistant", "refund")]
TALK: Said = [("user", "Hi"), ("assistant", "Yes?"), ("user", "It broke"), ("assistant", "refund")]
BRIEF: Said = [("system", "Sort."), *TALK]
FROM = [
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Yes?"},
    {"from": "human", "value": "It broke"},
    {"from": "gpt", "value": "refund"},
]
ROLES = [{"role": role, "content": content} for role, content in TALK]
SHAPES: dict[str, tuple[dict[str, Any], str, Said]] = {
    "pair": ({"prompt": "It broke", "completion": "refund"}, "prompt -> completion", PAIR),
    "messages": ({"messages": ROLES}, "conversations: messages", TALK),
    "messages beside their first question": (
        {"prompt": "Hi", "messages": ROLES},
        "conversations: messages",
        TALK,
    ),
    "messages as JSON in a text": (
        {"messages": json.dumps(ROLES)},
        "conversations: messages",
        TALK,
    ),
    "ShareGPT": ({"conversations": FROM}, "ShareGPT: conversations", TALK),
    "ShareGPT with its system apart": (
        {"system": "Sort.", "conversations": FROM},
        "ShareGPT: conversations + system",
        BRIEF,
    ),
    "ShareGPT that goes on": (
        {"conversations": [*FROM, {"from": "human", "value": "Thanks"}]},
        "ShareGPT: conversations",
        TALK,
    ),
    "conversation with roles": ({"conversation": ROLES}, "conversations: conversation", TALK),
    "Alpaca": (
        {"instruction": "Sort.", "input": "It broke", "output": "refund"},
        "Alpaca: instruction + input -> output",
        [("user", "Sort.\n\nIt broke"), ("assistant", "refund")],
    ),
    "Alpaca without input": (
        {"instruction": "It broke", "input": "", "output": "refund"},
        "Alpaca: instruction + input -> output",
        PAIR,
    ),
    "Alpaca with a history": (
        {
            "instruction": "It broke",
            "output": "refund",
            "history": [["Hi", "Yes?"]],
            "system": "Sort.",
        },
        "Alpaca: instruction -> output",
        BRIEF,
    ),
    "Dolly": (
        {"instruction": "Sort.", "context": "It broke", "response": "refund", "category": "qa"},
        "Alpaca: instruction + context -> response",
        [("user", "Sort.\n\nIt broke"), ("assistant", "refund")],
    ),
    "question and answer": (
        {"Question": "It broke", "Answer": "refund"},
        "question and answer: Question -> Answer",
        PAIR,
    ),
    "question with a context": (
        {"context": "A shop.", "question": "It broke", "answer": "refund"},
        "question and answer: context + question -> answer",
        [("user", "A shop.\n\nIt broke"), ("assistant", "refund")],
    ),
    "an input with a context": (
        {"context": "A shop.", "input": "It broke", "output": "refund"},
        "question and answer: context + input -> output",
        [("user", "A shop.\n\nIt broke"), ("assistant", "refund")],
    ),
    "a text with a context": (
        {"context": "A shop.", "text": "It broke", "label": "refund"},
        "text and label: context + text -> label",
        [("user", "A shop.\n\nIt broke"), ("assistant", "refund")],
    ),
    "a text beside a context that is no text": (
        {"context": ["A shop."], "text": "It broke", "label": "refund"},
        "text and label: text -> label",
        PAIR,
    ),
    "a question with what the system says": (
        {"system_prompt": "Sort.", "question": "It broke", "response": "refund"},
        "question and answer: question -> response",
        [("system", "Sort."), *PAIR],
    ),
    "prompt and response": (
        {"prompt": "It broke", "response": "refund"},
        "question and answer: prompt -> response",
        PAIR,
    ),
    "text and label": (
        {"text": "It broke", "label": "refund"},
        "text and label: text -> label",
        PAIR,
    ),
    "a label that has its text beside it": (
        {"text": "It broke", "label": 3, "label_text": "refund"},
        "text and label: text -> label_text",
        PAIR,
    ),
    "a preference": (
        {"prompt": "It broke", "chosen": "refund", "rejected": "wait"},
        "a preference file, the chosen side: prompt -> chosen",
        PAIR,
    ),
    "a preference of whole conversations": (
        {"prompt": "Hi", "chosen": ROLES, "rejected": ROLES[:2], "messages": ROLES},
        "a preference file, the chosen side: prompt -> chosen",
        TALK,
    ),
    "a preference of answers as messages": (
        {"prompt": ROLES[:3], "chosen": ROLES[3:], "rejected": ROLES[1:2]},
        "a preference file, the chosen side: prompt -> chosen",
        TALK,
    ),
    "a preference with Alpaca's prompt": (
        {"instruction": "Sort.", "input": "It broke", "chosen": "refund", "rejected": "wait"},
        "a preference file, the chosen side: instruction + input -> chosen",
        [("user", "Sort.\n\nIt broke"), ("assistant", "refund")],
    ),
    "a preference with ShareGPT's conversation": (
        {"conversations": FROM[:3], "chosen": FROM[3], "rejected": FROM[1]},
        "a preference file, the chosen side: conversations -> chosen",
        TALK,
    ),
    "an answer that is a number": (
        {"instruction": "It broke", "output": 7},
        "Alpaca: instruction -> output",
        [("user", "It broke"), ("assistant", "7")],
    ),
    "a preference without a prompt": (
        {"chosen": ROLES, "rejected": ROLES[:2]},
        "a preference file, the chosen side: chosen",
        TALK,
    ),
    "prompt and completion as messages": (
        {"prompt": ROLES[:3], "completion": ROLES[3:]},
        "prompt and completion as messages: prompt -> completion",
        TALK,
    ),
}
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "llama": (LLAMA, "<|eot|>"),
    "gemma": (GEMMA, "<|/turn|>"),
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    """A small tokenizer with each of the templates."""
    return {
        name: ChatTokenizer(make_model(tmp_path_factory.mktemp(name), source, end))
        for name, (source, end) in TEMPLATES.items()
    }


@pytest.mark.parametrize(("record", "told", "said"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("template_name", TEMPLATES)
def test_a_shape_is_recognised_and_rendered_as_the_conversation_that_it_is(
    tmp_path: Path,
    templates: dict[str, ChatTokenizer],
    template_name: str,
    record: dict[str, Any],
    told: str,
    said: Said,
) -> None:
    table = read_table(write(tmp_path, json.dumps(record) + "\n" + json.dumps(record) + "\n"))
    assert table.told == [told] and len(table.rows) == 2
    messages = [{"role": role, "content": content} for role, content in said]
    assert [list(row.messages) for row in table.rows] == [messages] * 2
    template = templates[template_name]
    if template_name == "gemma" and said[0][0] == "system":
        with pytest.raises(ValueError, match="System role not supported"):
            encode_rows(table.rows, template, 256)
        return
    end = TEMPLATES[template_name][1]
    for on_answers in (False, True):
        example, same = encode_rows(table.rows, template, 256, "data", on_answers)
        assert example == same
        assert template.decode(example.ids, False) == template.render(messages, False).rstrip("\n")
        carried = [
            template.decode(example.ids[start:stop], False) for start, stop in example.targets()
        ]
        answers = [content + end for role, content in said if role == "assistant"]
        assert carried == (answers if on_answers else answers[-1:])


def test_tools_and_calls_are_read_in_the_forms_that_they_are_written_in(tmp_path: Path) -> None:
    tool = {"name": "find_order", "parameters": {"type": "object", "properties": {}}}
    call = {"name": "find_order", "arguments": {"order": "7"}}
    turns = [
        {"from": "human", "value": "Where is it?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "sent"},
        {"from": "gpt", "value": "On its way."},
    ]
    record = {"conversations": turns, "tools": json.dumps([tool])}
    table = read_table(write(tmp_path, json.dumps(record)))
    assert table.told == ["ShareGPT: conversations + tools"]
    (row,) = table.rows
    assert row.tools == (tool,)
    assert [message["role"] for message in row.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert row.messages[1]["tool_calls"] == [call]
    flat = CALLING.replace("call.function.", "call.")
    template = ChatTokenizer(make_model(tmp_path / "model", flat))
    (example,) = encode_rows([row], template, 512, "data", True)
    assert [template.decode(example.ids[a:b], False) for a, b in example.targets()] == [
        '<call>find_order {"order": "7"}</call><|im_end|>',
        "On its way.<|im_end|>",
    ]


def test_whole_numbers_get_their_names_from_the_file_or_from_a_setting(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    features = {"label": {"names": ["refund", "wait"], "_type": "ClassLabel"}}
    table = pyarrow.table({"text": ["It broke", "A gift"], "label": [0, 1]})
    named = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pyarrow.parquet.write_table(named, tmp_path / "named.parquet")
    read = read_table(tmp_path / "named.parquet")
    assert [row.answer for row in read.rows] == ["refund", "wait"]
    assert read.told == ["text and label: text -> label, labels by the names in the file"]
    assert read.labels == {}
    pyarrow.parquet.write_table(table, tmp_path / "bare.parquet")
    write(tmp_path, "text,label\nIt broke,0\nA gift,1\n", "bare.csv")
    for name in ("bare.parquet", "bare.csv"):
        bare = read_table(tmp_path / name)
        assert [row.answer for row in bare.rows] == ["0", "1"] and bare.labels == {"bare": 2}
        reading = Reading(label_names=("refund", "wait"))
        read = read_table(tmp_path / name, reading=reading)
        assert [row.answer for row in read.rows] == ["refund", "wait"]
        assert read.labels == {"named": 2}
        with pytest.raises(ValueError, match=r'"label" is 1, and data.label_names has 1 names'):
            read_table(tmp_path / name, reading=Reading(label_names=("refund",)))


HALF = {
    "two prompts": (
        {"question": "a", "text": "b", "answer": "c"},
        '"question", "text" can each be the prompt; say which: data.columns.prompt=question '
        "data.columns.completion=answer; or join them: "
        'data.columns.prompt=\'{{ [question | default(""), text | default("")] | select | '
        'join("\\n\\n") }}\' data.columns.completion=answer',
    ),
    "two answers": (
        {"text": "a", "label": "b", "output": "c"},
        '"output", "label" can each be the answer; say which: data.columns.prompt=text '
        "data.columns.completion=output",
    ),
    "no answer": (
        {"text": "only"},
        'has no answer; found "text"; say which column it is: data.columns.prompt=text '
        "data.columns.completion=COLUMN",
    ),
    "no prompt": (
        {"sentence1": "a", "sentence2": "b", "label": 1},
        "data.columns.prompt=COLUMN data.columns.completion=label (a template joins several",
    ),
    "nothing that is known": (
        {"a": "b", "c": "d"},
        'needs "prompt" and "completion", or "messages"; found "a", "c"; or say which columns hold',
    ),
    "an answer that is null": (
        {"question": "a", "answer": None},
        'has no answer: "answer" is null',
    ),
    "an answer that is empty": (
        {"question": "a", "answer": ""},
        'has no answer: "answer" is empty',
    ),
    "a prompt that is empty": (
        {"question": "", "answer": "b"},
        "has no prompt, by question and answer: question -> answer",
    ),
    "a list of answers": (
        {"question": "a", "answer": ["b", "c"]},
        "a template can make one of it: data.columns.prompt=question "
        "data.columns.completion='{{ answer | join(\", \") }}'",
    ),
    "two conversations": (
        {"conversations": FROM, "dialog": FROM},
        '"conversations", "dialog" can each be the conversation; say which: '
        "data.columns.messages=conversations",
    ),
    "a conversation of plain texts": (
        {"conversations": ["a", "b"]},
        '"conversations" holds no messages with role and content, or with from and value',
    ),
    "a speaker that nobody knows": (
        {"conversations": [{"from": "narrator", "value": "a"}, *FROM]},
        'turn 1 of "conversations" is from "narrator"; known are human, ',
    ),
    "a turn without value": (
        {"conversations": [{"from": "human"}, *FROM]},
        'turn 1 of "conversations" must have from and value; found "from"',
    ),
    "a conversation without an answer": (
        {"conversations": FROM[:1]},
        'has no answer: the last message is from "user"',
    ),
    "a preference with two prompts": (
        {"question": "x", "text": "y", "chosen": "a", "rejected": "b"},
        "not one prompt beside them; say which column it is: data.columns.prompt=COLUMN",
    ),
    "a preference without a prompt": (
        {"chosen": "a", "rejected": "b"},
        "data.columns.prompt=COLUMN data.columns.completion=chosen",
    ),
    "a history of another form": (
        {"instruction": "a", "output": "b", "history": ["c"]},
        '"history" must be a list of questions with their answers',
    ),
}


@pytest.mark.parametrize(("record", "message"), HALF.values(), ids=HALF)
def test_what_is_half_recognised_names_file_line_and_remedy(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, "\n" + json.dumps(record) + "\n")
    said = complaint(path)
    assert said.startswith(f"{path}, line 2: ") and message in said


def test_the_remedy_that_is_named_reads_the_file(tmp_path: Path) -> None:
    record = {"question": "It broke", "text": "a ticket", "answer": "refund"}
    path = write(tmp_path, json.dumps(record))
    complaint(path)
    reading = Reading(Columns(prompt="question", completion="answer"))
    (row,) = read_table(path, reading=reading).rows
    assert [(one["role"], one["content"]) for one in row.messages] == PAIR


def test_a_table_reads_only_what_it_needs_and_counts_the_rest(tmp_path: Path) -> None:
    columns = {
        "question": ["It broke", "A gift"],
        "answer": ["refund", "wait"],
        "embedding": [[0.1] * 8, None],
        "id": [1, 2],
    }
    table = read_table(write_parquet(tmp_path, columns))
    assert [row.answer for row in table.rows] == ["refund", "wait"]
    assert +table.unused == {"embedding": 1, "id": 2}
    lines = "".join(
        json.dumps({name: values[index] for name, values in columns.items()}) + "\n"
        for index in range(2)
    )
    assert read_table(write(tmp_path, lines)).unused == +table.unused
