"""A whole model as one GGUF file: weights in a chosen number format, tokenizer, chat template and
what is known of where it comes from.

A base that came as a GGUF file is written against that very file: its settings and its tokenizer
are copied, and weights that training left alone stay as they are where the format asked for is no
smaller.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.data.chat_template import ChatTokenizer
from jobs.export import gguf_architecture, gguf_tokenizer
from jobs.export.formats import FORMATS, GGUF, Format

if TYPE_CHECKING:
    import torch
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

WRITTEN_ANEW = (
    *("general.", "tokenizer.chat_template", "tokenizer.ggml.bos_token_id", "GGUF."),
    *("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_bos_token"),
    *("tokenizer.ggml.add_eos_token", "tokenizer.ggml.unknown_token_id"),
    "tokenizer.ggml.padding_token_id",
)
"""Beginnings of the keys of a base's file that are not copied."""
WHOLE_VOCABULARY = ("token_embd.weight", "output.weight")
"""Weights that llama.cpp's own quantisation leaves finer than the rest: every token depends on
them.
"""


@dataclass(frozen=True)
class Provenance:
    """What a file tells of itself."""

    name: str
    description: str
    base: str
    base_id: str
    base_revision: str
    data: str | None = None
    licence: str | None = None


def write_model(
    weights: Mapping[str, torch.Tensor],
    config: Any,
    base: Path,
    task: Mapping[str, Any],
    form: Format,
    target: Path,
    provenance: Provenance,
    source: Path | None = None,
    changed: frozenset[str] | None = None,
) -> None:
    """Write `weights`, by transformers' names, to `target`. `base` is the base's folder, with its
    tokenizer; `source` the GGUF file that the base came as. `changed` names the weights that
    training has changed; None: any. Raises ValueError for a model that cannot be written.
    """
    import gguf

    architecture = gguf_architecture.architecture_of(config)
    name_of = gguf_architecture.tensor_names(architecture, config.num_hidden_layers)
    name = gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, architecture.gguf)]
    num_tokens = weights["model.embed_tokens.weight"].shape[0]
    draft = target.with_name(f"{target.name}.draft")
    writer = gguf.GGUFWriter(draft, name)
    original = None if source is None else gguf.GGUFReader(source)
    describe(writer, provenance)
    writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{form.quantization}"))
    if form.quantization != "F16":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if original is None:
        gguf_architecture.write_settings(writer, config, num_tokens)
        gguf_tokenizer.write_tokenizer(writer, base, num_tokens)
    else:
        copy_settings(writer, original)
    template = ChatTokenizer(base, task["today"])
    gguf_tokenizer.write_chat(writer, template, bool(task.get("thinking")))
    factors = gguf_architecture.rotary_factors(config)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    as_they_were = unchanged(original, form, name_of, weights, changed)
    for theirs, weight in weights.items():
        ours = name_of(theirs)
        if ours is None:
            raise ValueError(
                f"the weight {theirs} has no name in GGUF files of {name}; "
                f"{gguf_architecture.ALTERNATIVE}"
            )
        if ours == "output.weight" and config.tie_word_embeddings:
            continue
        if ours in as_they_were:
            entry = as_they_were[ours]
            writer.add_tensor(ours, np.array(entry.data), raw_dtype=entry.tensor_type)
            continue
        array = weight.detach().float().cpu().numpy()
        array = gguf_architecture.converted(theirs, array, architecture, config)
        kind = number_format(ours, array, form)
        writer.add_tensor(ours, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(draft, target)


def number_format(name: str, weight: np.ndarray, form: Format) -> GGMLQuantizationType:
    """In which format a weight is kept: norms and biases whole; a matrix whose rows cannot be cut
    into blocks in 16 bits.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if weight.ndim < 2:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[form.quantization]
    if name in WHOLE_VOCABULARY and form.bits < 8:
        kind = GGMLQuantizationType.Q8_0
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if weight.shape[-1] % block == 0 else GGMLQuantizationType.F16


def unchanged(
    original: GGUFReader | None,
    form: Format,
    name_of: Any,
    weights: Mapping[str, Any],
    changed: frozenset[str] | None,
) -> dict[str, Any]:
    """Tensors of the base's file that the new one holds as they are."""
    if original is None or changed is None or form.quantization == "F16":
        return {}
    from gguf import GGML_QUANT_SIZES

    kept = {name_of(name) for name in weights if name not in changed}
    tensors = {}
    for tensor in original.tensors:
        block, size = GGML_QUANT_SIZES[tensor.tensor_type]
        in_vocabulary = tensor.name in WHOLE_VOCABULARY
        limit = max(form.bits, 8.5) if in_vocabulary else form.bits
        if tensor.name in kept and len(tensor.shape) > 1 and 8 * size / block <= limit:
            tensors[tensor.name] = tensor
    return tensors


def rounded_again(source: Path, form: Format) -> str | None:
    """What a form loses of a base that came as a file of few bits already, in words; None where
    that file's weights are kept, or were never rounded.
    """
    from gguf import GGML_QUANT_SIZES, GGUFReader

    sizes: Counter[Any] = Counter()
    for tensor in GGUFReader(source).tensors:
        if len(tensor.shape) > 1 and tensor.name not in WHOLE_VOCABULARY:
            sizes[tensor.tensor_type] += int(tensor.n_bytes)
    if not sizes:
        return None
    ((kind, _),) = sizes.most_common(1)
    block, size = GGML_QUANT_SIZES[kind]
    own = [
        one.name for one in FORMATS.values() if one.kind == "gguf" and one.quantization == kind.name
    ]
    if form.bits >= 8 * size / block or not own or own == [GGUF]:
        return None
    return (
        f"the base came as {kind.name}, which {form.name} rounds a second time; {own[0]} keeps "
        "what training left alone as it was"
    )


def copy_settings(writer: GGUFWriter, original: GGUFReader) -> None:
    """Sizes and tokenizer of the base's own file."""
    for key, entry in original.fields.items():
        if key.startswith(WRITTEN_ANEW):
            continue
        inner = entry.types[-1] if len(entry.types) > 1 else None
        writer.add_key_value(key, entry.contents(), entry.types[0], sub_type=inner)


def describe(writer: GGUFWriter, provenance: Provenance) -> None:
    """Base, data, score and licence, under the names that other programs look for."""
    writer.add_type("model")
    write_provenance(writer, provenance)


def write_provenance(writer: GGUFWriter, provenance: Provenance) -> None:
    """What model and adapter files tell alike."""
    writer.add_name(provenance.name)
    writer.add_description(provenance.description)
    if provenance.licence:
        writer.add_license(provenance.licence)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, provenance.base)
    writer.add_base_model_version(0, provenance.base_revision)
    writer.add_base_model_description(0, provenance.base_id)
    if provenance.data:
        writer.add_dataset_count(1)
        writer.add_dataset_name(0, provenance.data)
