"""A LoRA alone as a GGUF adapter: one base file, and a small file for each task.

llama.cpp multiplies by alpha and divides by the rank of the very matrices, as PEFT does; where PEFT
scales in another way, that is put into the second matrix.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from jobs.export import gguf_architecture
from jobs.export.gguf_model import Provenance, write_provenance

PREFIX = "base_model.model."
UNLIKE = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
)
"""Settings of PEFT that a GGUF adapter cannot say."""


def write_adapter(
    folder: Path, config: Any, target: Path, provenance: Provenance, instruction: str = ""
) -> None:
    """Write the adapter in `folder` to `target`. `config` is the base's. Raises ValueError for one
    that cannot be written.
    """
    import gguf
    from safetensors.numpy import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [name for name in UNLIKE if settings.get(name)]
    if odd:
        raise ValueError(
            f"the adapter has {', '.join(odd)}, which a GGUF adapter cannot say; export the merged "
            "model, such as export.format=gguf-q8_0"
        )
    architecture = gguf_architecture.architecture_of(config)
    name_of = gguf_architecture.tensor_names(architecture, config.num_hidden_layers)
    matrices = load_file(folder / "adapter_model.safetensors")
    draft = target.with_name(f"{target.name}.draft")
    writer = gguf.GGUFWriter(
        draft, gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, architecture.gguf)]
    )
    writer.add_type("adapter")
    write_provenance(writer, provenance)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    alpha = float(settings["lora_alpha"])
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_string(gguf.Keys.Adapter.LORA_TASK_NAME, provenance.name)
    if instruction:
        writer.add_string(gguf.Keys.Adapter.LORA_PROMPT_PREFIX, instruction)
    for name, second in matrices.items():
        if ".lora_B" not in name:
            continue
        first = matrices[name.replace(".lora_B", ".lora_A")]
        theirs = re.sub(r"\.lora_B(\.default)?\.weight$", ".weight", name.removeprefix(PREFIX))
        ours = name_of(theirs)
        if ours is None:
            raise ValueError(f"the adapter changes {theirs}, which has no name in GGUF files")
        rank = first.shape[0]
        factor = scaling(settings, theirs, rank) * rank / alpha
        rows = gguf_architecture.converted(
            theirs, second.astype(np.float32) * np.float32(factor), architecture, config
        )
        writer.add_tensor(f"{ours}.lora_a", np.ascontiguousarray(first, np.float32))
        writer.add_tensor(f"{ours}.lora_b", np.ascontiguousarray(rows, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(draft, target)


def scaling(settings: dict[str, Any], weight: str, rank: int) -> float:
    """What PEFT multiplies a layer's update by."""
    module = weight.removesuffix(".weight")
    alpha = float(settings["lora_alpha"])
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
