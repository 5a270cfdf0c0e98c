"""A model's tokenizer, chat template and end tokens as llama.cpp keeps them.

Two kinds are written: pairs of bytes (GPT-2's way, as in Llama 3, Qwen and SmolLM) and pairs of
characters with single bytes as a way out (SentencePiece's, as in Llama 2 and Gemma).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.data.chat_template import ChatTokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITTERS = {QWEN2: "qwen2", QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|"): "llama-bpe"}
"""Rules for cutting a text into words, by the name that llama.cpp has for them."""
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
NO_MERGE = "<no> <merge>"
"""Stands for the merges of a tokenizer without any: llama.cpp wants one, and this never applies,
since both sides are longer than a character and no token.
"""


def write_tokenizer(writer: GGUFWriter, base: Path, num_tokens: int) -> None:
    """Vocabulary and merges. Raises ValueError for a tokenizer of another kind."""
    described = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    model = described["model"]
    if model.get("type") != "BPE":
        raise ValueError(
            f"the base's tokenizer is of the kind {model.get('type')}, which is not written into "
            "GGUF files here; export.format=safetensors exports any"
        )
    by_bytes = not model.get("byte_fallback")
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []
    ]
    tokens, kinds = vocabulary(described, num_tokens)
    if by_bytes:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splitter(described))
        writer.add_token_merges(merges or [NO_MERGE])
        writer.add_add_space_prefix(False)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores(tokens, merges))
        writer.add_add_space_prefix(puts_space_first(described))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)


def vocabulary(described: dict[str, Any], num_tokens: int) -> tuple[list[str], list[int]]:
    """Every token of the model and its kind. Rows of the weights without a token get a filler."""
    from gguf import TokenType

    by_id = {index: token for token, index in described["model"]["vocab"].items()}
    types = {
        index: TokenType.BYTE
        for index, token in by_id.items()
        if described["model"].get("byte_fallback") and BYTE.fullmatch(token)
    }
    for added in described.get("added_tokens") or []:
        by_id[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    tokens, kinds = [], []
    for index in range(num_tokens):
        is_token = index in by_id
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        kinds.append(int(types.get(index, TokenType.NORMAL if is_token else TokenType.UNUSED)))
    return tokens, kinds


def scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece's scores: of two pieces that can be joined it joins the better one first, and
    the tokenizer's list of merges is in that order.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else -1e6 for token in tokens]


def puts_space_first(described: dict[str, Any]) -> bool:
    """Whether a tokenizer puts a space before a text."""
    text = json.dumps([described.get("normalizer"), described.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or "always" in text


def splitter(described: dict[str, Any]) -> str:
    """llama.cpp's name for the way a tokenizer cuts texts into words. Raises ValueError for an
    unknown one: with a wrong name the model would be given other tokens than it was trained on.
    """
    steps = described.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers") or [steps]
    kinds = [step.get("type") for step in steps]
    patterns = [(step.get("pattern") or {}).get("Regex") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and patterns[0] in SPLITTERS:
        return SPLITTERS[str(patterns[0])]
    steps_named = ", ".join(map(str, kinds))
    raise ValueError(
        f"the base's tokenizer cuts texts in a way that has no name here ({steps_named}); "
        "export.format=safetensors exports any"
    )


def write_chat(writer: GGUFWriter, template: ChatTokenizer, thinking: bool) -> None:
    """Chat template and special tokens. A rendered prompt holds its beginning-of-text token
    already, so llama.cpp must not add another one.
    """
    for kind in ("bos", "unk", "pad"):
        token = template.special_tokens.get(f"{kind}_token")
        ids = [] if token is None else template.encode(token)
        if len(ids) == 1:
            getattr(writer, f"add_{kind}_token_id")(ids[0])
    ends = template.eos_ids
    turn = ends[template.eos_tokens.index(template.end_of_turn)]
    writer.add_eos_token_id(turn)
    writer.add_eot_token_id(next((token for token in ends if token != turn), turn))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(chat_template(template, thinking))


def chat_template(template: ChatTokenizer, thinking: bool) -> str:
    """The template as the model was trained with it: where it asks whether to think, that is
    answered in it, since other programs answer for themselves.
    """
    source = template.chat_template
    if "enable_thinking" not in source:
        return source
    return f"{{%- set enable_thinking = {str(thinking).lower()} %}}{source}"
