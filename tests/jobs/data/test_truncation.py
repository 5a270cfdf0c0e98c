"""A prompt that is too long loses some of what the user says, and nothing else; what is lost is
counted over all rows, and while training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import BaseModel, Data, Model, Train
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.readers import Row
from jobs.data.rendering import Renderer
from jobs.data.task_prompt import encode_asked_row, from_messages
from jobs.data.tokenization import encode_asked, encode_row
from jobs.data.trial_data import TrialData
from jobs.data.truncation import LEAST_TURN, emptied, first_with_room, head_and_exchanges, least
from tests.support.chat_templates import (
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
from tests.support.trials import tiny_trial

SAY = {"role": "assistant", "content": "J11"}
WORDS = " ".join(f"word{number}" for number in range(300))
UNITS = ["naïve 日本語🧬 ", "👩‍👩‍👧 é\u0301 ", "x" * 7, "a b\n\n\n c"]


@pytest.mark.parametrize("name", ["chatml", "llama", "gemma", "qwen"])
@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_marks_instruction_and_both_ends_of_the_prompt_stay(
    tmp_path: Path, name: str, kind: str
) -> None:
    source = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "qwen": QWEN}[name]
    template = ChatTokenizer(make_model(tmp_path, source, kind=kind))
    row = make_row(
        {"role": "user", "content": f"Which code?\n{WORDS}"}, SAY, instruction="Which code?\n"
    )
    whole = encode_row(row, template, 9999)
    start, _, _ = whole.text.partition("word0")
    end = whole.text[whole.text.rindex("word299") + 7 :]
    for room in range(len(template.encode(start + end)) + 14, 200, 7):
        short = encode_row(row, template, room)
        assert room - 12 <= len(short.ids) <= room
        assert short.text.startswith(start) and short.text.endswith(end)
        assert short.num_cut == whole.prompt_length - short.prompt_length > 0
        assert template.encode(short.text) == short.ids[: short.prompt_length]
        assert short.ids[short.prompt_length :] == whole.ids[whole.prompt_length :]
        if room > 150:
            assert "word0" in short.text and "word299" in short.text and "word150" not in short.text


@pytest.mark.parametrize("unit", UNITS)
def test_a_cut_leaves_whole_characters_and_the_ids_of_its_own_text(
    base: BaseModel, unit: str
) -> None:
    template = ChatTokenizer(base.path)
    for room in range(45, 90):
        short = encode_row(make_row({"role": "user", "content": unit * 30}, SAY), template, room)
        assert "\ufffd" not in short.text and room - 16 < len(short.ids) <= room
        assert template.encode(short.text) == short.ids[: short.prompt_length]


def test_the_oldest_exchanges_go_first_and_the_system_message_stays(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    turns = [
        {"role": role, "content": f"{role} says {i}: {WORDS[:100]}"}
        for i in range(4)
        for role in ("user", "assistant")
    ]
    row = make_row(
        {"role": "system", "content": "Be brief."},
        *turns,
        {"role": "user", "content": "And now?"},
        SAY,
    )
    whole = encode_row(row, template, 9999)
    for room in range(60, len(whole.ids), 23):
        short = encode_row(row, template, room)
        assert len(short.ids) <= room and short.num_cut > 0
        assert short.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
        assert short.text.endswith("<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n")
        kept = [i for i in range(4) if f"assistant says {i}" in short.text]
        assert kept == list(range(4 - len(kept), 4)), "what is kept is the newest"
        assert (
            short.text.count("<|im_start|>")
            == short.text.count("<|im_end|>") + 1
            == 2 * len(kept) + 3
        )


def test_tools_and_calls_stay_and_long_results_are_cut(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CALLING))
    calls = {"role": "assistant", "content": "", "tool_calls": TALK[1]["tool_calls"]}
    row = make_row(
        {"role": "user", "content": "Where is it?"},
        calls,
        {"role": "tool", "content": WORDS},
        SAY,
        tools=(TOOL,),
    )
    short = encode_row(row, template, 400)
    assert 390 < len(short.ids) <= 400
    assert (
        "Tools:" in short.text
        and '<call>find_order {"order": "7"}</call>' in short.text
        and "Where is it?" in short.text
    )
    assert "word0" in short.text and "word299<|im_end|>" in short.text


def test_what_cannot_be_cut_is_refused_with_what_would_do(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    row = make_row({"role": "system", "content": WORDS}, {"role": "user", "content": WORDS}, SAY)
    with pytest.raises(
        ValueError,
        match=r"line 17: .* too many for train\.max_length=64.*raise train\.max_length to (\d+)",
    ) as caught:
        encode_row(row, template, 64)
    enough = int(str(caught.value).rpartition("raise train.max_length to ")[2].split(",")[0])
    assert len(encode_row(row, template, enough).ids) <= enough


@pytest.fixture(scope="module")
def base(cache: Path) -> BaseModel:
    return fetch.prepare(Model(name="tiny", source="tiny"), cache)


def lengths(folder: Path, **splits: list[int]) -> Data:
    """Splits of rows whose prompts have these lengths."""
    for name, sizes in splits.items():
        rows = [
            {"prompt": f"{name}{i:03d} " + "x" * size, "completion": "A"}
            for i, size in enumerate(sizes)
        ]
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return Data(name="toy", folder=str(folder))


def test_what_is_cut_is_counted_in_training_validation_and_test(
    base: BaseModel, tmp_path: Path
) -> None:
    from jobs.evaluation.evaluate import evaluate_on_test
    from jobs.evaluation.scores import EvaluationSettings
    from jobs.training.finetune import Hooks, finetune

    data = lengths(tmp_path, train=[5] * 12 + [200] * 4, valid=[5, 200, 300], test=[5, 5, 200])
    train = Train(max_length=128, steps=2, eval_every=2, batch_size=8)
    trial = tiny_trial(data, train)
    steps: list[dict[str, Any]] = []
    rungs: list[dict[str, Any]] = []
    hooks = Hooks(
        on_rung=lambda report, save: rungs.append(report),
        on_step=lambda step, metrics: steps.append(metrics),
    )
    finetune(trial, base, hooks)
    course = TrialData(trial, ChatTokenizer(base.path), load_corpus(data))
    expected = [sum(example.num_cut > 0 for example in course.batch(step)) for step in range(2)]
    assert sum(expected) == 4, "two steps see each of the 16 rows once"
    assert [metrics.get("data/shortened_train", 0) for metrics in steps] == expected
    assert rungs[-1]["data/shortened_valid"] == 2
    verdict = evaluate_on_test(trial, base, None, EvaluationSettings(0.95, None, 1))
    assert verdict.num_cut == 1 and verdict.metrics()["test/shortened"] == 1


def test_test_rows_are_cut_alike_whatever_their_answers(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    answers = ["A", "B " * 20]
    rows = [
        make_row({"role": "user", "content": WORDS}, {"role": "assistant", "content": answer})
        for answer in answers
    ]
    examples, limit = encode_asked(rows, template, 128, None)
    assert (
        examples[0].text == examples[1].text
        and limit == len(examples[1].ids) - examples[1].prompt_length
    )
    assert encode_asked(rows, template, 128, 5)[1] == 5


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 40])
@pytest.mark.parametrize("room", [-1, 0, LEAST_TURN - 1, LEAST_TURN, 100, 1000])
def test_the_exchange_that_is_cut_is_the_first_that_has_room(count: int, room: int) -> None:
    """As if all were looked at one after another."""

    def spare(index: int) -> int:
        return room - 9 * (count - 1 - index) - (index % 2)

    needed = [0 if index + 1 == count else LEAST_TURN for index in range(count)]
    found = [index for index in range(count) if spare(index) >= needed[index]]
    assert first_with_room(count, spare) == (found[0] if found else None)


def shortened_plainly(renderer: Renderer, row: Row, room: int) -> Any:
    """What `shorten` gives, found by looking at one exchange after another."""
    head, exchanges = head_and_exchanges(row)
    for index, exchange in enumerate(exchanges):
        later = [message for one in exchanges[index + 1 :] for message in one]
        bare = [*head, *(emptied(message, row.instruction) for message in exchange), *later]
        spare = room - len(renderer.template.encode(renderer.prompt(row, bare)))
        if spare >= (0 if index + 1 == len(exchanges) else LEAST_TURN):
            return renderer.cut(row, room, spare, head, exchange, later)
    text = renderer.prompt(row, least(row))
    return text, renderer.template.encode(text), least(row)


@pytest.mark.parametrize("name", ["chatml", "llama", "gemma", "qwen"])
@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_a_conversation_is_cut_as_if_its_exchanges_were_looked_at_one_after_another(
    tmp_path: Path, name: str, kind: str
) -> None:
    source = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "qwen": QWEN}[name]
    renderer = Renderer(ChatTokenizer(make_model(tmp_path, source, kind=kind)))
    draw = random.Random(7)
    for _ in range(12):
        turns = [
            {"role": role, "content": "word " * draw.choice([1, 2, 5, 20, 60])}
            for _ in range(draw.randrange(9))
            for role in ("user", "assistant")
        ]
        row = make_row(*turns, {"role": "user", "content": "ask " * draw.choice([1, 40])}, SAY)
        size = len(renderer.template.encode(renderer.prompt(row, row.context)))
        for room in (*range(5, size, max(1, size // 9)), size - 1):
            assert renderer.shorten(row, room) == shortened_plainly(renderer, row, room)


def test_a_conversation_of_thousands_of_turns_is_cut_at_few_renderings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    render, num_messages = template.render, []

    def counted(messages: Any, *rest: Any) -> str:
        num_messages.append(len(messages))
        return render(messages, *rest)

    monkeypatch.setattr(template, "render", counted)
    talk = [{"role": "user", "content": "a"} for _ in range(2000)]
    task = {"instruction": "", "max_length": 512, "max_new_tokens": 9}
    asked = encode_asked_row(from_messages(json.dumps(talk), task), task, template)
    assert len(asked.ids) <= 503 < asked.num_tokens and asked.cut_note is not None
    assert sum(num_messages) < 40 * len(talk)


def test_a_message_that_a_template_leaves_out_is_named(tmp_path: Path) -> None:
    """Also where thousands are looked at together."""
    only_last_two = "{% set messages = messages[-2:] %}" + CHATML
    template = ChatTokenizer(make_model(tmp_path, only_last_two))
    turns = [{"role": "user", "content": f"{number}"} for number in range(5)]
    with pytest.raises(ValueError, match="leaves out message 1, "):
        Renderer(template).render(make_row(*turns, SAY))
