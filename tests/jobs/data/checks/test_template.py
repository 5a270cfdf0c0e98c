"""What a chat template and a tokenizer make of rows: ends without loss, doubled beginnings, marks in
texts, system prompts that are dropped.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jobs.data.chat_template import ChatTokenizer
from jobs.data.checks.result import CheckResult
from jobs.data.checks.template import check
from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from tests.support.chat_templates import CHATML, GEMMA, LLAMA, QWEN, SAY, make_model, make_row

PROMPTS = ("Which code has the flu?", "Which code has gout?")
DROPS_SYSTEM = CHATML.replace(
    "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
)

DEVELOPER = CHATML + "{% if messages[0].role == 'developer' %}{{ '' }}{% endif %}"


def asked(*prompts: str) -> list[Row]:
    return [
        dataclasses.replace(make_row({"role": "user", "content": prompt}, SAY), key=prompt)
        for prompt in prompts
    ]


def linted(folder: Path, train: list[Row]) -> CheckResult:
    corpus = Corpus({"train": train}, asked("What else?"), asked("What more?"))
    return check(corpus, ChatTokenizer(folder))


@pytest.mark.parametrize("template", [CHATML, LLAMA, GEMMA, QWEN])
def test_templates_as_models_bring_them_are_clean(tmp_path: Path, template: str) -> None:
    result = linted(make_model(tmp_path / "m", template), asked(*PROMPTS))
    assert (result.state, result.warnings) == ("ok", []), result


def test_an_answer_whose_end_is_no_token_of_its_own_is_told(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", None, end="</s>")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["content"] != "</s>"
    ]  # it stays in the vocabulary, and no text gives it
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = linted(folder, asked(*PROMPTS))
    assert [warning.partition(":")[0] for warning in result.warnings] == ["train", "valid", "test"]
    assert "none that ends a turn" in result.warnings[0] and "'</s>' is" in result.warnings[0]


def test_a_doubled_beginning_of_text_is_told(tmp_path: Path) -> None:
    result = linted(make_model(tmp_path / "m", "{{ bos_token }}" + LLAMA), asked(*PROMPTS))
    assert "train: prompts begin with '<|bos|>' twice" in result.warnings[0]


def test_marks_of_the_template_inside_a_text_are_told(tmp_path: Path) -> None:
    rendered = "<|im_start|>user\nWhich code has the flu?<|im_end|>"
    result = linted(make_model(tmp_path / "m", CHATML), asked(rendered, *PROMPTS))
    (warning,) = result.warnings
    assert warning.startswith("train: 1 of 3 rows (33.3%) have marks of the template in their text")


@pytest.mark.parametrize(
    ("template", "role", "is_named"),
    [(CHATML, "customer", True), (CHATML, "tool", False), (DEVELOPER, "developer", False)],
)
def test_a_role_that_neither_models_nor_the_template_know_is_told(
    tmp_path: Path, template: str, role: str, is_named: bool
) -> None:
    row = make_row({"role": role, "content": "Hello."}, {"role": "user", "content": "Who?"}, SAY)
    result = linted(make_model(tmp_path / "m", template), [*asked(*PROMPTS), row])
    assert len(result.warnings) == is_named
    for warning in result.warnings:
        assert warning.startswith("train: 1 of 3 rows (33.3%) have messages of a role that")
        assert f'"{role}" (first: ' in warning and "one of system, user, assistant, tool" in warning


def test_a_system_prompt_that_the_template_drops_is_fatal(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [make_row(system, {"role": "user", "content": "Who?"}, SAY)]
    result = linted(make_model(tmp_path / "m", DROPS_SYSTEM), rows)
    assert result.state == "fatal" and 'leaves out message 1, which is from "system"' in (
        result.fatal
    )


def test_a_system_prompt_of_the_template_itself_is_shown(tmp_path: Path) -> None:
    own = (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}"
        "{% endif %}" + CHATML
    )
    result = linted(make_model(tmp_path / "m", own), asked(*PROMPTS))
    assert result.state == "ok" and result.details == [
        "the template puts a system prompt before conversations without one: 'Be kind.'"
    ]
