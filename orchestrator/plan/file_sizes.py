"""How large an exported file will be at least: known from the shapes of the base's weights, before
anything is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.config import Adapter, BaseModel
from jobs.export.formats import FORMATS, Format
from jobs.files.safetensors_headers import tensor_shapes

BLOCK = 32
"""Numbers of a row that share a scale; rows that cannot be cut into blocks stay in 16 bits."""
VOCABULARY_BITS = 8.5
"""Embeddings are kept at least so fine, see gguf_model.WHOLE_VOCABULARY."""
SMALLEST_BITS = 4.0
"""Of a weight that came in a GGUF file and that training leaves as it is."""
K_QUANT_SHARE = 0.9
"""A K-quant mixes formats; no model of ours has come out smaller than this share of its mean."""

Shapes = Mapping[str, Sequence[int]]


def least_megabytes(base: BaseModel, form: str, adapter: Adapter) -> float:
    """The size on disk, in 10**6 bytes, that a model in this format has at least: its weights
    alone, of an adapter with those of the base below it.
    """
    shapes = tensor_shapes(Path(base.path))
    wanted = FORMATS[form]
    if wanted.kind != "gguf-adapter":
        learns = [] if adapter.kind == "full" else adapted(shapes, adapter)
        changed = None if adapter.kind == "full" else frozenset(learns)
        return megabytes(shapes, wanted, base, changed)
    updates = sum(
        adapter.rank * (shapes[name][0] + shapes[name][1]) for name in adapted(shapes, adapter)
    )
    whole = megabytes(shapes, FORMATS["gguf-f16"], base, frozenset())
    return whole + 4 * updates / 1e6


def megabytes(
    shapes: Shapes, form: Format, base: BaseModel, changed: frozenset[str] | None
) -> float:
    """The weights of a model in a format. `changed` names those that training changes; None: all
    of them.
    """
    bits = 0.0
    for name, shape in shapes.items():
        came_small = base.source == "wheel" and changed is not None and name not in changed
        each = bits_of(name, shape, form)
        if came_small and len(shape) > 1 and form.kind not in ("safetensors", "onnx"):
            each = min(each, SMALLEST_BITS)
        bits += each * math.prod(shape)
    return bits / 8e6


def bits_of(name: str, shape: Sequence[int], form: Format) -> float:
    """Bits of a weight in a format, its share of the scales included."""
    if len(shape) < 2 or form.kind == "safetensors":
        return 32.0
    if form.kind == "onnx":
        return form.bits
    if form.kind == "gguf-k":
        return form.bits * K_QUANT_SHARE
    if shape[-1] % BLOCK:
        return 16.0
    vocabulary = name.endswith(("embed_tokens.weight", "lm_head.weight"))
    return max(form.bits, VOCABULARY_BITS) if vocabulary and form.bits < 8 else form.bits


def adapted(shapes: Shapes, adapter: Adapter) -> list[str]:
    """The weights that an adapter is put on: matrices of the last layers, by the names of its
    targets.
    """
    layers = {name: layer_of(name) for name, shape in shapes.items() if len(shape) == 2}
    inside = {name: layer for name, layer in layers.items() if layer is not None}
    num_layers = max(inside.values(), default=-1) + 1
    first = num_layers - adapter.num_adapted(num_layers)
    targets = [target.strip() for target in adapter.targets.split(",")]
    return [
        name
        for name, layer in inside.items()
        if layer >= first
        and (
            targets == ["all-linear"]
            or name.removesuffix(".weight").endswith(tuple(f".{target}" for target in targets))
        )
    ]


def layer_of(name: str) -> int | None:
    """The layer that a weight belongs to."""
    match = re.match(r".*?\.(\d+)\.", name)
    return int(match[1]) if match else None
