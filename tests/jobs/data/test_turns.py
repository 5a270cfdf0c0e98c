"""train.on=answers: every answer of a conversation carries loss with the end of its turn, and nothing
else does, with every template.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.data.chat_template import ChatTokenizer
from jobs.data.messages import read_message
from jobs.data.tokenization import Example, encode_rows
from jobs.pack.batch.builder import pack_batch
from jobs.pack.batch.prefix_groups import group_by_prefix
from jobs.training.finetune import only_targets
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

SYSTEM = {"role": "system", "content": "Be brief. Say im_end if asked."}
CONVERSATION = [
    {"role": "user", "content": "Which code has the flu?"},
    {"role": "assistant", "content": "J11"},
    {"role": "user", "content": "And J11?"},
    {"role": "assistant", "content": "the flu\nJ11"},
    {"role": "user", "content": "J11 J11"},
    {"role": "assistant", "content": "J11"},
]
ENDS = {CHATML: "<|im_end|>", QWEN: "<|im_end|>", LLAMA: "<|eot|>", GEMMA: "<|/turn|>"}


def example(
    template: ChatTokenizer, *messages: dict, length: int = 512, **fields: object
) -> Example:
    """A conversation as it is trained on with train.on=answers."""
    checked = [read_message(dict(one), place) for place, one in enumerate(messages, start=1)]
    return encode_rows([make_row(*checked, **fields)], template, length, "data", True)[0]


def carried(template: ChatTokenizer, made: Example) -> list[str]:
    """The pieces that carry loss, as text."""
    return [template.decode(made.ids[start:stop], False) for start, stop in made.targets()]


@pytest.mark.parametrize("chat_template", ENDS, ids=["chatml", "qwen", "llama", "gemma"])
@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_each_answer_carries_loss_with_the_end_of_its_turn(
    tmp_path: Path, chat_template: str, kind: str
) -> None:
    end = ENDS[chat_template]
    template = ChatTokenizer(make_model(tmp_path, chat_template, end, kind))
    head = [] if chat_template == GEMMA else [SYSTEM]
    made = example(template, *head, *CONVERSATION)
    assert carried(template, made) == [f"J11{end}", f"the flu\nJ11{end}", f"J11{end}"]
    assert made.num_targets() == sum(stop - start for start, stop in made.targets())
    last = encode_rows([make_row(*head, *CONVERSATION)], template, 512)[0]
    assert last.ids == made.ids and last.earlier == ()
    assert carried(template, last) == [f"J11{end}"]


def test_calls_of_functions_carry_loss_and_what_tools_say_does_not(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CALLING))
    made = example(template, *TALK, tools=(TOOL,))
    assert carried(template, made) == [
        '<call>find_order {"order": "7"}</call><|im_end|>',
        "n<|im_end|>",
    ]


def test_an_answer_whose_reasoning_the_template_drops_carries_no_loss(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CALLING))
    thought = {"role": "assistant", "content": "J11", "reasoning_content": "Winter, so flu."}
    asked = {"role": "user", "content": "Which code?"}
    made = example(template, asked, thought, asked, thought, thinking=True)
    (only,) = carried(template, made)
    assert "Winter, so flu." in only and made.earlier == ()


def test_a_template_that_writes_earlier_answers_without_an_end_marks_none(tmp_path: Path) -> None:
    bare = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '<|im_end|>' }}{% endif %}{{ '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template = ChatTokenizer(make_model(tmp_path, bare))
    pieces = carried(template, example(template, *CONVERSATION))
    assert [piece.strip() for piece in pieces] == ["J11", "the flu\nJ11", "J11<|im_end|>"]


def test_a_conversation_that_is_cut_keeps_its_later_answers_whole(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    long = [message | {"content": message["content"] + " x" * 40} for message in CONVERSATION[2:3]]
    messages = [*CONVERSATION[:2], *long, *CONVERSATION[3:]]
    whole = example(template, *messages)
    for length in range(40, len(whole.ids)):
        made = example(template, *messages, length=length)
        assert len(made.ids) <= length and made.num_cut > 0
        pieces = carried(template, made)
        assert pieces == carried(template, whole)[-len(pieces) :]


def test_pack_and_plain_weigh_the_same_tokens(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    talks = [CONVERSATION, CONVERSATION[:4], CONVERSATION[:2], CONVERSATION[2:]]
    examples = [example(template, SYSTEM, *talk) for talk in talks]
    expected = [
        token for one in examples for start, stop in one.targets() for token in one.ids[start:stop]
    ]
    batch = pack_batch(group_by_prefix(0, examples, 1 / len(expected)))
    assert sorted(batch.targets.tolist()) == sorted(expected)
    assert float(batch.weights.sum()) == pytest.approx(1.0)
    for position, target in zip(batch.loss_positions.tolist(), batch.targets.tolist(), strict=True):
        before = int(batch.ids[0, position])
        assert any((before, target) in zip(one.ids, one.ids[1:], strict=False) for one in examples)
    keep = max(len(one.ids) - one.targets()[0][0] for one in examples)
    rows = [[-100] * max(0, keep - len(one.ids)) + one.ids[-keep:] for one in examples]
    kept = only_targets(torch.tensor(rows), examples, keep, False)
    assert sorted(kept[kept >= 0].tolist()) == sorted(expected)
    everything = only_targets(torch.tensor(rows), examples, keep, True)
    assert int((everything >= 0).sum()) <= sum(len(one.ids) - 1 for one in examples)
