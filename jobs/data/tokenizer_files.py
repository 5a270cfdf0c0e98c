"""What a model's folder says of its tokenizer: special tokens, chat template, the number of its
embeddings.
"""

from __future__ import annotations

import json
from pathlib import Path

from jobs.files.json_types import JsonObject

TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
EMBEDDINGS = (
    *(
        "embed_tokens.weight",
        "wte.weight",
        "word_embeddings.weight",
        "embed_in.weight",
        "tok_embeddings.weight",
        "lm_head.weight",
    ),
    "backbone.embeddings.weight",
)
"""Ends of the names of weights with a row for each token."""


def read_json(path: Path) -> JsonObject:
    """The object in a JSON file; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: broken JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(parsed).__name__}")
    return parsed


def find_number(folder: Path, *names: str) -> int | None:
    """The first of `names` that a model's configuration, or the one of its text part, gives as a
    whole number.
    """
    config = read_json(folder / "config.json")
    nested = config.get("text_config")
    sections = [config, nested if isinstance(nested, dict) else {}]
    return next(
        (
            section[name]
            for section in sections
            for name in names
            if isinstance(section.get(name), int)
        ),
        None,
    )


def find_num_tokens(folder: Path) -> int | None:
    """How many tokens a model knows. Its weights decide: a tokenizer, and a configuration, may have
    learned more since.
    """
    from jobs.files.safetensors_headers import tensor_shapes

    rows = [
        shape[0]
        for name, shape in tensor_shapes(folder).items()
        if name.endswith(EMBEDDINGS) and len(shape) == 2
    ]
    vocab_size = find_number(folder, "vocab_size")
    return min([*rows, *([] if vocab_size is None else [vocab_size])], default=None)


def find_special_tokens(*sources: JsonObject) -> dict[str, str]:
    """Special tokens by name, the first file that names one winning. A token is written as text or
    as an object with `content`.
    """
    tokens = {}
    for source in reversed(sources):
        for name in TOKEN_NAMES:
            if source.get(name) is not None:
                tokens[name] = (
                    source[name].get("content") if isinstance(source[name], dict) else source[name]
                )
    return tokens


def find_template(folder: Path, settings: JsonObject) -> str | None:
    """Source of the chat template: chat_template.jinja before the setting of that name, and of
    several the one named "default".
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
            ) from None
    template = settings.get("chat_template") or read_json(folder / "chat_template.json").get(
        "chat_template"
    )
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        if "default" not in template:
            raise ValueError(
                f"{folder} holds the chat templates {', '.join(sorted(template))} but none named "
                f"default; save one as {file.name}"
            )
        template = template["default"]
    return template
