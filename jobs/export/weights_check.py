"""Whether the weights in a GGUF file are those that they are to be: the trained ones, not
transposed, scaled as in training.

A wrong weight shows in the probabilities too, but there without a reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.export import gguf_architecture
from jobs.export.formats import Format
from jobs.export.gguf_adapter import PREFIX, scaling

if TYPE_CHECKING:
    import torch

LARGEST_ERROR = {16: 0.002, 8: 0.02, 6: 0.1, 5: 0.12, 4: 0.25}
"""Relative error of a tensor that a number format of so many bits may cause."""


def check_weights(
    file: Path,
    weights: Mapping[str, torch.Tensor],
    config: Any,
    form: Format,
    changed: frozenset[str] | None,
) -> None:
    """Raise ValueError, with the first reason, where the weights that training changed are not in
    `file`.
    """
    import gguf

    architecture = gguf_architecture.architecture_of(config)
    name_of = gguf_architecture.tensor_names(architecture, config.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    limit = next(error for bits, error in LARGEST_ERROR.items() if form.bits >= bits)
    for theirs in sorted(changed if changed is not None else weights):
        ours = name_of(theirs)
        if ours == "output.weight" and config.tie_word_embeddings:
            continue
        if ours not in tensors:
            raise ValueError(f"{file.name} lacks the weight {ours} ({theirs})")
        entry = tensors[ours]
        actual = gguf.quants.dequantize(entry.data, entry.tensor_type)
        array = weights[theirs].detach().float().cpu().numpy()
        wanted = gguf_architecture.converted(theirs, array, architecture, config)
        problem = difference(actual, wanted, limit)
        if problem is not None:
            raise ValueError(f"{file.name}: the weight {ours} ({theirs}) {problem}")


def check_adapter(file: Path, folder: Path, config: Any) -> None:
    """Raise ValueError, with the first reason, where `file` does not change the base as the adapter
    in `folder` does.
    """
    import gguf
    from safetensors.numpy import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    architecture = gguf_architecture.architecture_of(config)
    name_of = gguf_architecture.tensor_names(architecture, config.num_hidden_layers)
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: np.asarray(tensor.data, np.float32) for tensor in reader.tensors}
    entry = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    alpha = float(entry.contents()) if entry is not None else 0.0
    matrices = load_file(folder / "adapter_model.safetensors")
    for name, second in matrices.items():
        if ".lora_B" not in name:
            continue
        first = matrices[name.replace(".lora_B", ".lora_A")].astype(np.float32)
        theirs = name.removeprefix(PREFIX).partition(".lora_B")[0] + ".weight"
        ours = name_of(theirs)
        mine = [tensors.get(f"{ours}.lora_{side}") for side in "ab"]
        if mine[0] is None or mine[1] is None:
            raise ValueError(f"{file.name} lacks the update of {ours} ({theirs})")
        rows = gguf_architecture.converted(theirs, second.astype(np.float32), architecture, config)
        for side, actual, wanted in (("first", mine[0], first), ("second", mine[1], rows)):
            if actual.shape != wanted.shape and actual.shape == wanted.shape[::-1]:
                raise ValueError(
                    f"{file.name}: the {side} matrix of the update of {ours} ({theirs}) is "
                    "transposed"
                )
            if actual.shape != wanted.shape:
                raise ValueError(
                    f"{file.name}: the {side} matrix of the update of {ours} has the shape "
                    f"{list(actual.shape)} instead of {list(wanted.shape)}"
                )
        rank = first.shape[0]
        wanted = scaling(settings, theirs, rank) * (rows @ first)
        actual = alpha / rank * (mine[1] @ mine[0])
        problem = difference(actual, wanted, 1e-3)
        if problem is not None:
            raise ValueError(f"{file.name}: the update of {ours} ({theirs}) {problem}")


def difference(actual: np.ndarray, wanted: np.ndarray, limit: float) -> str | None:
    """In words, how a matrix differs from what it is to be; None where it does not."""
    if actual.shape != wanted.shape:
        return f"has the shape {list(actual.shape)} instead of {list(wanted.shape)}"
    size = float(np.linalg.norm(wanted))
    if not size:
        return None if not actual.any() else "is to be zero"

    def error(array: np.ndarray) -> float:
        return float(np.linalg.norm(array - wanted)) / size

    off = error(actual)
    if off <= limit:
        return None
    if actual.ndim == 2 and actual.shape[0] == actual.shape[1] and error(actual.T) <= limit:
        return "is transposed"
    factor = float((actual * wanted).sum()) / size**2
    if factor and error(actual / np.float32(factor)) <= limit:
        return f"is scaled by {factor:.3g} of what it was trained with"
    return f"is another one than was trained: it is off by {off:.0%} of its size"
