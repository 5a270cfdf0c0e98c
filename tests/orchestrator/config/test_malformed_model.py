"""Broken folders of a base model: exit code 2 and one clear message that says what is wrong in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.base_models.tiny import RECIPE
from jobs.config import Model


def tiny_config(**changed: Any) -> str:
    """The tiny model's config.json with other values."""
    return json.dumps({"model_type": "llama", **RECIPE["config"], **changed})


MODELS: list[tuple[str, str | bytes, str]] = [
    (
        "config.json",
        '{"model_type": "bert", "architectures": ["BertModel"]}',
        "it is a bert (BertModel), which does not continue a text",
    ),
    ("config.json", '{"model_type": "t5", "is_encoder_decoder": true}', "does not continue a text"),
    ("config.json", '{"model_type": 5}', "config.json has no model_type"),
    ("config.json", '{"model_type": "llama", "vocab_size": 100}', "a model knows 100 tokens"),
    ("config.json", tiny_config(model_type="nosuch"), "model type `nosuch`"),
    (
        "config.json",
        tiny_config(num_hidden_layers=4),
        "18 weights of it are not there, such as model.layers.2.input_layernorm.weight",
    ),
    (
        "config.json",
        tiny_config(hidden_size=128, architectures=5),
        "has the shape [259, 64] instead of [259, 128]",
    ),
    (
        "config.json",
        tiny_config(
            model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
        ),
        "code of its own",
    ),
    ("config.json", tiny_config(hidden_act="nosuch"), "cannot load the model in"),
    ("config.json", tiny_config(num_attention_heads="four"), "cannot load the model in"),
    ("config.json", tiny_config(num_attention_heads=0), "cannot load the model in"),
    (
        "config.json",
        tiny_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "its weights are quantized (gptq)",
    ),
    ("model.safetensors", b"\x02" + b"\0" * 7 + b"{}", "model.safetensors holds no weights"),
    ("model.safetensors", b"\x08", "model.safetensors is broken"),
    ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "no 3 in it"),
    ("tokenizer.json", '{"a": 1}', "tokenizer.json is no tokenizer"),
    ("tokenizer_config.json", "[1]", "tokenizer_config.json must hold a JSON object"),
    (
        "tokenizer_config.json",
        '{"eos_token": 5}',
        "tokenizer_config.json: eos_token must be a text",
    ),
    (
        "tokenizer_config.json",
        '{"eos_token": {"x": 1}}',
        "tokenizer_config.json: eos_token must be a text",
    ),
    ("chat_template.jinja", "{{ 1 / 0 }}", "division by zero"),
    ("chat_template.jinja", "hello", "leaves out what the messages say"),
    ("chat_template.jinja", b"\xff\xfe", "chat_template.jinja is not UTF-8"),
    ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id 'x', which is no number"),
]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    MODELS,
    ids=[f"{name} {expected[:30]}" for name, _, expected in MODELS],
)
def test_a_broken_model_folder_is_named_with_what_is_wrong(
    refuse: Callable[..., str],
    cache: Path,
    tmp_path: Path,
    name: str,
    content: str | bytes,
    expected: str,
) -> None:
    folder = tmp_path / "a model"
    shutil.copytree(fetch.prepare(Model(name="tiny", source="tiny"), cache).path, folder)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refuse("model=path", f"model.path={folder}", "model.name=mine")
    assert expected in message and "a model" in message


def test_a_model_folder_that_is_no_model_says_what_it_lacks(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "not-a-model").mkdir()
    assert "config.json" in refuse(
        "model=path", f"model.path={tmp_path / 'not-a-model'}", "model.name=mine"
    )


def test_a_model_folder_that_does_not_exist_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    assert "nowhere" in refuse(
        "model=path", f"model.path={tmp_path / 'nowhere'}", "model.name=mine"
    )
