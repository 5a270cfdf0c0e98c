"""Text and token ids are what transformers would make of the same messages."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from jobs.data.chat_template import ChatTokenizer
from tests.support.chat_templates import ASK, CHATML, GEMMA, LLAMA, QWEN, SAY, make_model

JSON = "{% for message in messages %}{{ message | tojson }}{{ message.content | tojson(indent=2) }}<|im_end|>{% endfor %}"
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "qwen": QWEN, "json": JSON}


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    folder = make_model(tmp_path, TEMPLATES[name])
    ours, theirs = ChatTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = ours.chat_template  # with the date that ours is told
    talks = [
        [ASK],
        [ASK, SAY],
        [ASK, {"role": "assistant", "content": "<think>hm</think>\n\nJ11"}, ASK, SAY],
    ]
    if name != "gemma":
        talks += [[{"role": "system", "content": " Be brief.\n"}, *talk] for talk in talks]
    for talk in talks:
        for ask in (True, False):
            text = theirs.apply_chat_template(
                talk, tokenize=False, add_generation_prompt=ask, enable_thinking=False
            )
            assert ours.render(talk, ask) == text
            ids = theirs.apply_chat_template(
                talk, add_generation_prompt=ask, enable_thinking=False, return_dict=False
            )
            assert ours.encode(text) == ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "asking",
    ["strftime_now('%d %b %Y')", 'strftime_now( "%d %b %Y" )', "strftime_now('%d' + ' %b %Y')"],
)
def test_a_template_that_asks_for_the_date_is_told_the_same_on_every_day(
    tmp_path: Path, asking: str
) -> None:
    source = (
        "{% if strftime_now is defined %}{% set day = "
        + asking
        + " %}{% endif %}Today: {{ day }}\\n"
        + CHATML
    )
    template = ChatTokenizer(make_model(tmp_path, source))
    assert template.render([ASK, SAY], False).startswith("Today: 26 Jul 2024")
    assert ("26 Jul 2024" in template.chat_template) == ("+" not in asking), (
        "what is exported says it to other programs"
    )
    other = ChatTokenizer(tmp_path, "2025-01-02")
    assert (
        other.render([ASK, SAY], False).startswith("Today: 02 Jan 2025")
        and other.fingerprint != template.fingerprint
    )


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_many_texts_at_once_have_the_ids_that_each_has_alone(tmp_path: Path, kind: str) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML, kind=kind))
    assert (template._cuts is None) == (kind == "words")
    draw = random.Random(0)
    starts = [
        "",
        "\n",
        "\n\n",
        " ",
        "  x",
        "\t",
        "\r\n",
        "3",
        "?",
        "é",
        "\u0301",
        "\u2028",
        "<|im_end|>",
        "<|im_",
        "'s",
        "日本",
    ]
    texts = []
    for _ in range(400):
        tail = draw.choice(starts) + "".join(
            draw.choice("ab 1.?\né<|>") for _ in range(draw.randrange(12))
        )
        texts.append(
            f"<|im_start|>system\nBe brief, be kind, be quick.<|im_end|>\n<|im_start|>user\nWhich code has the following case?\n{tail}"
        )
    assert template.encode_batch(texts) == [template.encode(text) for text in texts]
    assert template.encode_batch([]) == []


def test_a_text_that_goes_on_gets_no_space_in_front(tmp_path: Path) -> None:
    words = ChatTokenizer(make_model(tmp_path / "words", CHATML, kind="words"))
    assert words.decode(words.encode("[INST]") + words.encode_continuation("J11")) == "[INST]J11"
    assert words.decode(words.encode("[INST]") + words.encode("J11")) == "[INST] J11"
    plain = ChatTokenizer(make_model(tmp_path / "bytes", CHATML))
    assert plain.encode_continuation("J11") == plain.encode("J11")


def test_a_template_that_refuses_a_role_says_so_without_a_traceback_of_its_own(
    tmp_path: Path,
) -> None:
    template = ChatTokenizer(make_model(tmp_path, GEMMA))
    with pytest.raises(
        ValueError, match=r"refuses messages from system, user: System role not supported"
    ):
        template.render([{"role": "system", "content": "Be brief."}, ASK], True)
    with pytest.raises(
        ValueError, match="refuses messages from user: 'dict object' has no attribute 'content'"
    ):
        ChatTokenizer(make_model(tmp_path, CHATML)).render([{"role": "user"}], True)


def test_a_model_without_a_template_gets_lines(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, None))
    assert template.render([ASK], True) == ASK["content"] + "\n"
    assert template.render([ASK, SAY], False) == ASK["content"] + "\nJ11"
    assert template.end_of_turn == "<|im_end|>"


def test_the_template_may_stand_in_the_tokenizer_settings(tmp_path: Path) -> None:
    folder = make_model(tmp_path, None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for found in (
        CHATML,
        [{"name": "tools", "template": JSON}, {"name": "default", "template": CHATML}],
    ):
        (folder / "tokenizer_config.json").write_text(
            json.dumps(settings | {"chat_template": found})
        )
        assert ChatTokenizer(folder).chat_template == CHATML
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": [{"name": "tools", "template": JSON}]})
    )
    with pytest.raises(ValueError, match="none named default"):
        ChatTokenizer(folder)


def test_generation_stops_at_every_token_that_ends_a_text_or_a_turn(tmp_path: Path) -> None:
    folder = make_model(tmp_path, GEMMA, end="<|bos|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    template = ChatTokenizer(folder)
    assert template.eos_tokens == ["<|bos|>", "<|eot|>", "<|/turn|>"] and template.eos_ids == [
        0,
        5,
        7,
    ]
    assert (template.eos_id, template.end_of_turn) == (0, "<|/turn|>")


def test_an_end_of_text_that_the_tokenizer_does_not_know_ends_nothing(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path / "plain", CHATML))
    folder = make_model(tmp_path / "odd", CHATML)
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [123456789]}', encoding="utf-8"
    )
    assert ChatTokenizer(folder).eos_tokens == template.eos_tokens


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        ChatTokenizer(tmp_path)
    with pytest.raises(ValueError, match="does not compile"):
        ChatTokenizer(make_model(tmp_path / "broken", "{% for %}"))
    folder = make_model(tmp_path / "endless", None)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no end-of-text token"):
        ChatTokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="broken JSON"):
        ChatTokenizer(folder)
