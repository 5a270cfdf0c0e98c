"""What carries loss is the answer with the end of its turn, whatever the answer is and whatever the
template writes around it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.data.chat_template import ChatTokenizer
from jobs.data.readers import Row, read_rows
from jobs.data.tokenization import encode_row
from tests.support.chat_templates import (
    CALL,
    CALLING,
    CHATML,
    GEMMA,
    LLAMA,
    QWEN,
    TALK,
    TOOL,
    make_model,
    make_row,
)

LLAMA2 = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"""
MISTRAL = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}
{%- else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"""
ZEPHYR = """{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
MARKED = """{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}{{ m.content + '<|im_end|>' }}
{%- endgeneration %}{{ '\\n' }}{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
ENDLESS = CHATML.replace("<|im_end|>", "")
THINKING = QWEN.replace("enable_thinking is false", "false")
REWRITING = "{% if add_generation_prompt %}Q: {% else %}QA: {% endif %}{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
CASES: dict[str, tuple[str | None, str, str]] = {
    "chatml": (CHATML, "<|im_end|>", ""),
    "llama3": (LLAMA, "<|eot|>", ""),
    "gemma": (GEMMA, "<|/turn|>", ""),
    "llama2": (LLAMA2, "</s>", ""),
    "mistral": (MISTRAL, "</s>", ""),
    "zephyr": (ZEPHYR, "</s>", ""),
    "qwen": (QWEN, "<|im_end|>", ""),
    "thinking": (THINKING, "<|im_end|>", "<think>\n\n</think>\n\n"),
    "marked": (MARKED, "<|im_end|>", ""),
    "endless": (ENDLESS, "<|im_end|>", ""),
    "none": (None, "<|im_end|>", ""),
    "rewriting": (REWRITING, "<|eot|>", ""),
}
"""Template, end of a turn, and what stands before an answer that the template writes itself."""
ANSWERS = [
    *(
        "n",
        "e",
        "end",
        "im",
        "im_end",
        "|",
        "<",
        ">",
        "<|",
        "|>",
        "_",
        "eot",
        "s",
        "/s",
        "/",
        "turn",
        "0",
        "1",
        "INST",
        "[/INST]",
    ),
    *(
        "assistant",
        "user",
        "system",
        "model",
        "think",
        "\\n",
        "Beta7q",
        "Zeta3w",
        "q",
        "w",
        "B",
        "Z",
        "Which code?",
        "Which code? J11",
    ),
    *(
        " n",
        "n ",
        "n\n",
        "\nn",
        "  e  ",
        "a\n\nb",
        "J11.",
        "é",
        "e\u0301",
        "日本",
        "🧬",
        "👩‍👩‍👧",
        "naïve\u2028x",
        '{"a": "n"}',
        "None",
        "x" * 300,
    ),
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("turns", [1, 2])
def test_every_answer_is_trained_as_itself_and_ends_its_turn(
    tmp_path: Path, name: str, turns: int
) -> None:
    source, end, lead = CASES[name]
    template = ChatTokenizer(
        make_model(tmp_path, source, end="</s>" if end == "</s>" else "<|im_end|>")
    )
    earlier = [
        {"role": "user", "content": "Which code?"},
        {"role": "assistant", "content": "n"},
    ] * (turns - 1)
    for answer in ANSWERS:
        row = make_row(
            *earlier,
            {"role": "user", "content": "Which code?"},
            {"role": "assistant", "content": answer},
        )
        example = encode_row(row, template, 4096)
        given = template.decode(example.ids[: example.prompt_length], skip_special=False)
        carried = template.decode(example.ids[example.prompt_length :], skip_special=False)
        assert given == example.text == template.render(row.context, True)
        assert carried.startswith(lead) and carried.endswith(end), (name, answer, carried)
        assert carried[len(lead) : len(carried) - len(end)].strip() == answer.strip(), (
            name,
            answer,
            carried,
        )
        assert example.reference == answer.strip()
        if (
            source is not None
            and end in source.replace("eos_token", "</s>")
            and name != "rewriting"
        ):
            assert template.render(row.messages, False).startswith(given + carried)


def test_an_answer_beside_a_mark_is_found_by_tokenizers_that_mark_word_beginnings(
    tmp_path: Path,
) -> None:
    template = ChatTokenizer(make_model(tmp_path, LLAMA2, end="</s>", kind="words"))
    for answer in ("n", "s", "s>", "INST", "J11"):
        example = encode_row(
            make_row(
                {"role": "user", "content": "Which"}, {"role": "assistant", "content": answer}
            ),
            template,
            512,
        )
        assert (
            template.decode(example.ids[example.prompt_length :], skip_special=False).strip()
            == f"{answer} </s>"
        )


@pytest.mark.parametrize("change", ["upper", "replace('1', '2')", "truncate(8)", "length"])
def test_a_template_that_changes_the_answer_is_refused_with_the_row(
    tmp_path: Path, change: str
) -> None:
    source = CHATML.replace("message['content']", f"(message['content'] | {change}) | string")
    source = (
        source.replace(f"| {change})", "| replace('1', '2'))")
        if "(" in change and "replace" in change
        else source
    )
    row = make_row(
        {"role": "user", "content": "Beta7q"},
        {"role": "assistant", "content": "code J11, and nothing else"},
    )
    with pytest.raises(
        ValueError,
        match=r"leaves out|line 17: the chat template of model does not write the answer \"code J11",
    ):
        encode_row(row, ChatTokenizer(make_model(tmp_path / "model", source)), 512)


def test_a_beginning_of_text_stands_once(tmp_path: Path) -> None:
    for name, source in {"llama": LLAMA, "gemma": GEMMA, "none": None}.items():
        folder = make_model(tmp_path / name, source)
        row = make_row(
            {"role": "user", "content": "Which code?"}, {"role": "assistant", "content": "n"}
        )
        example = encode_row(row, ChatTokenizer(folder), 512)
        assert example.ids.count(0) == (0 if source is None else 1)


def read(folder: Path, *records: dict[str, Any]) -> list[Row]:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_rows(path)


def carried(row: Row, template: ChatTokenizer) -> str:
    example = encode_row(row, template, 4096)
    return template.decode(example.ids[example.prompt_length :], skip_special=False)


def test_tools_and_calls_are_rendered_or_refused(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"tools": [TOOL], "messages": TALK})
    example = encode_row(row, ChatTokenizer(make_model(tmp_path / "calling", CALLING)), 4096)
    assert (
        '"name": "find_order"' in example.text
        and '<call>find_order {"order": "7"}</call>' in example.text
    )
    plain = ChatTokenizer(make_model(tmp_path / "plain", CHATML))
    with pytest.raises(
        ValueError,
        match=r'train\.jsonl, line 1: the chat template of plain does not render "tools"',
    ):
        encode_row(row, plain, 4096)
    (without,) = read(tmp_path, {"messages": TALK})
    with pytest.raises(ValueError, match=r'does not render the "tool_calls" of message 2'):
        encode_row(without, plain, 4096)


def test_a_call_may_be_the_answer(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path / "calling", CALLING))
    written = {"type": "function", "function": {"name": "find_order", "arguments": '{"order":"7"}'}}
    for call in (CALL, written):
        (row,) = read(
            tmp_path,
            {
                "tools": json.dumps([TOOL]),
                "messages": [TALK[0], {"role": "assistant", "tool_calls": [call]}],
            },
        )
        assert carried(row, template).endswith('<call>find_order {"order": "7"}</call><|im_end|>')
        assert encode_row(row, template, 4096).reference.endswith(
            '<call>find_order {"order": "7"}</call>'
        )


@pytest.mark.parametrize(
    "arguments", [{}, {"arguments": None}, {"arguments": ""}, {"arguments": {}}]
)
def test_a_call_of_a_function_without_arguments_needs_none(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    template = ChatTokenizer(make_model(tmp_path / "calling", CALLING))
    call = {"type": "function", "function": {"name": "find_order"} | arguments}
    messages = [TALK[0], {"role": "assistant", "tool_calls": [call]}]
    (row,) = read(tmp_path, {"tools": [TOOL], "messages": messages})
    assert carried(row, template) == "<call>find_order {}</call><|im_end|>"


def test_a_table_and_lines_render_alike(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    other = {
        "type": "function",
        "function": {"name": "find_weather", "arguments": {"city": "Town"}},
    }
    talks = [
        TALK,
        [TALK[0], {"role": "assistant", "content": "", "tool_calls": [other]}, *TALK[2:]],
    ]
    records = [{"tools": [TOOL], "messages": talk} for talk in talks]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "train.parquet")
    table, lines = read_rows(tmp_path / "train.parquet"), read(tmp_path, *records)
    assert [(row.messages, row.tools) for row in table] == [
        (row.messages, row.tools) for row in lines
    ]
    template = ChatTokenizer(make_model(tmp_path / "calling", CALLING))
    assert [encode_row(row, template, 4096) for row in table] == [
        encode_row(row, template, 4096) for row in lines
    ]
    assert "null" not in encode_row(table[0], template, 4096).text


def test_reasoning_is_trained_as_the_template_renders_it_or_refused(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "n", "reasoning_content": "It is new."}
    (row,) = read(tmp_path, {"messages": [TALK[0], said]})
    template = ChatTokenizer(make_model(tmp_path / "calling", CALLING))
    assert carried(row, template) == "<think>\nIt is new.\n</think>\n\nn<|im_end|>"
    example = encode_row(row, template, 4096)
    assert example.text.endswith("<|im_start|>assistant\n") and example.reference == "n"
    assert (
        example.matches("<think>\nSomething else.\n</think>\n\nn")
        and example.matches("n")
        and not example.matches("<think>\nn")
    )
    with pytest.raises(
        ValueError,
        match=r'does not render the "reasoning_content" of message 2; take another model',
    ):
        encode_row(row, ChatTokenizer(make_model(tmp_path / "plain", CHATML)), 4096)
    (other,) = read(
        tmp_path,
        {"messages": [TALK[0], {"role": "assistant", "content": "n", "thinking": "It is new."}]},
    )
    with pytest.raises(
        ValueError,
        match=r'"thinking" of message 2; it takes it from "reasoning_content": rename it',
    ):
        encode_row(other, template, 4096)


def test_a_message_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    source = CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages if message['role'] != 'system' %}",
    )
    rows = read(tmp_path, {"messages": [{"role": "system", "content": "i"}, TALK[0], TALK[3]]})
    with pytest.raises(
        ValueError,
        match=r'line 1: the chat template of model leaves out message 1, which is from "system"',
    ):
        encode_row(rows[0], ChatTokenizer(make_model(tmp_path / "model", source)), 4096)


def test_contents_may_be_lists_of_texts_and_nothing_else(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Where"}, {"type": "text", "text": "is it?"}]
    (row,) = read(tmp_path, {"messages": [{"role": "user", "content": parts}, TALK[3]]})
    assert row.context[0]["content"] == "Where\nis it?"
    with pytest.raises(
        ValueError, match='line 1: message 1 holds a part of the type "image_url"; only texts'
    ):
        read(
            tmp_path,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
                    TALK[3],
                ]
            },
        )
