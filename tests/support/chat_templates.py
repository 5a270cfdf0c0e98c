"""Chat templates as models bring them, a folder of a model with one of them, and rows for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.data.readers import Row
from orchestrator.project import ROOT

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# In the manner of Llama 3.2: beginning-of-text token, today's date, trimmed contents, optional
# variables.
LLAMA = """{{- bos_token }}
{%- if tools is not none %}{{- raise_exception('no tools here') }}{%- endif %}
{%- set today = date_string if date_string is defined else strftime_now('%Y') %}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|head|>system<|/head|>\\n\\nToday: ' + today + '\\n' + system + '<|eot|>' }}
{%- for message in messages %}{{- '<|head|>' + message.role + '<|/head|>\\n\\n' + message.content | trim + '<|eot|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}"""
# In the manner of Gemma: no system role, turns must alternate, the end of a turn is not the end of
# text.
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{{- '<|turn|>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + message['content'] | trim + '<|/turn|>\\n' -}}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>model\\n' }}{% endif %}"""
# In the manner of Qwen3: an empty thought before the last answer, older thoughts removed,
# namespaces, loop controls.
QWEN = """{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}{%- if message.role == 'user' %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- break %}
{%- endif %}{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- generation %}
        {{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if loop.index0 > ns.last else '') + content + '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
TEMPLATES_OF_MODELS = "\n".join((CHATML, LLAMA, GEMMA, QWEN))
ROWS = ROOT / "data/icd10/valid.jsonl"
"""With the templates, the text that small tokenizers are trained on."""
SPECIAL = [
    "<|bos|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|head|>",
    "<|/head|>",
    "<|eot|>",
    "<|turn|>",
    "<|/turn|>",
    "</s>",
]
ASK = {"role": "user", "content": "  Which <b>code</b> has the flu? 'J11' "}
SAY = {"role": "assistant", "content": "J11"}
CALLING = """{%- if tools %}{{- '<|im_start|>system\\nTools:' }}{% for tool in tools %}{{- ' ' + tool | tojson }}{% endfor %}{{- '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content and loop.last %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}{{- m.content }}
{%- for call in m.tool_calls or [] %}{{- '<call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "find_order", "arguments": {"order": "7"}}}
TALK = [
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "sent"},
    {"role": "assistant", "content": "n"},
]


def make_model(
    folder: Path, chat_template: str | None, end: str = "<|im_end|>", kind: str = "bytes"
) -> Path:
    """A model folder with a small tokenizer trained here: BPE over bytes as GPT-2 has it, or with a
    mark for word beginnings as Llama 2.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    text = (16 * TEMPLATES_OF_MODELS + ROWS.read_text(encoding="utf-8")).splitlines(keepends=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<|bos|>"},
        "eos_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder


def make_row(*messages: dict[str, Any], **fields: Any) -> Row:
    """A row as it comes out of a file."""
    return Row(messages=messages, key="", place="cases.jsonl, line 17", **fields)
