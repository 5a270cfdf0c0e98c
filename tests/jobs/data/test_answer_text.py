"""What a template writes after an answer is no part of it: such answers are scored and told as
themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data.answer_text import answer_text, tail
from jobs.data.chat_template import ChatTokenizer
from jobs.data.tokenization import encode_row
from orchestrator.plan.token_counts import note_answers
from tests.support.chat_templates import CALL, CALLING, CHATML, LLAMA, make_model, make_row

CLOSED = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content | trim }}{% if m.role == 'assistant' %} [end of n answer e]{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QUOTED = """{% for m in messages %}{% if m.role == 'user' %}U: {{ m.content }}
{% else %}A: "{{ m.content }}"<|eot|>
{% endif %}{% endfor %}{% if add_generation_prompt %}A: "{% endif %}"""
LATE = """{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}
{% else %}{{ m.content }}</s>

### End
{% endif %}{% endfor %}"""
TAILS = {
    "closed": (CLOSED, "[end of n answer e]"),
    "quoted": (QUOTED, '"'),
    "late": (LATE, ""),
    "chatml": (CHATML, ""),
    "llama": (LLAMA, ""),
}
ANSWERS = (
    "n",
    "e",
    "end",
    "[end",
    "answer e]",
    '"',
    'say "n"',
    "[end of n answer e]",
    "é\n日本",
    " n ",
)


@pytest.mark.parametrize("name", TAILS)
def test_an_answer_comes_back_as_itself_whatever_is_written_after_it(
    tmp_path: Path, name: str
) -> None:
    source, expected = TAILS[name]
    template = ChatTokenizer(make_model(tmp_path, source, end="</s>"))
    assert tail(template) == expected
    for answer in ANSWERS:
        row = make_row(
            {"role": "user", "content": "Which code?"}, {"role": "assistant", "content": answer}
        )
        example = encode_row(row, template, 512)
        decoded = answer_text(template, example.ids[example.prompt_length :])
        assert decoded == answer.strip() == example.reference
        assert example.matches(decoded) and not example.matches(decoded + "x")


def test_such_answers_are_not_told_as_lost(tmp_path: Path) -> None:
    from jobs.data.rendering import renderer

    template = ChatTokenizer(make_model(tmp_path, CLOSED))
    rows = [
        make_row({"role": "user", "content": "Which?"}, {"role": "assistant", "content": answer})
        for answer in ANSWERS
    ]
    lengths: dict[str, tuple[int, bool]] = {}
    note_answers([renderer(template).render(row) for row in rows], template, lengths)
    assert lengths and all(comes_back for _, comes_back in lengths.values())


def test_a_call_before_a_closing_word_matches_itself(tmp_path: Path) -> None:
    source = CALLING.replace(
        "{{- '<|im_end|>\\n' }}{%- endfor %}",
        "{% if m.role == 'assistant' %}{{- ' over' }}{% endif %}{{- '<|im_end|>\\n' }}{%- endfor %}",
    )
    template = ChatTokenizer(make_model(tmp_path, source))
    row = make_row(
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    )
    example = encode_row(row, template, 512)
    assert tail(template) == "over" and "<call>find_order" in example.reference
    assert example.matches(answer_text(template, example.ids[example.prompt_length :]))
