"""A model small enough to train in a test: two Llama layers with seeded random weights and one
token per byte.

Owns the recipe. The result is a base like any other: plain transformers load it, with nothing from
this project.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jobs.base_models.hf_folder import name_plain_tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Standard deviation 0.15: with the usual 0.02 the logits of so narrow a model hardly depend on its
# input, and LoRA learns nothing.
RECIPE: dict[str, Any] = {
    "version": 1,
    "seed": 0,
    "standard_deviation": 0.15,
    "special": SPECIAL,
    "chat_template": CHAT_TEMPLATE,
    "config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "vocab_size": 256 + len(SPECIAL),
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        "tie_word_embeddings": True,
    },
}


def revision() -> str:
    """sha256 of the recipe, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()


def make(folder: Path) -> None:
    """Write the model into `folder`: the same bytes each time, whatever the state of torch's random
    numbers.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = RECIPE["config"]
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(
            LlamaConfig(**config, initializer_range=RECIPE["standard_deviation"])
        ).float()
    generator = torch.Generator().manual_seed(RECIPE["seed"])
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=RECIPE["standard_deviation"], generator=generator)
    model.generation_config = GenerationConfig(
        **{name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    )
    model.save_pretrained(folder)
    _save_tokenizer(folder)


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    start, end, pad = SPECIAL
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        chat_template=CHAT_TEMPLATE,
    )
    fast.model_max_length = RECIPE["config"]["max_position_embeddings"]
    fast.save_pretrained(folder)
    name_plain_tokenizer(folder)
