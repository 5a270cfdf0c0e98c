"""What llama.cpp calls a model's architecture, its settings and its weights.

The names of the tensors are the `gguf` package's; what has to be done to a weight is what
llama.cpp's own converters do: the rows of Llama's query and key projections are put into the order
of its rotary embedding, and Gemma's norms are stored with the one that they are added to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class Architecture:
    """One architecture, as both sides name it."""

    gguf: str
    """Name in gguf.MODEL_ARCH."""
    rotates_in_pairs: bool = False
    """Whether llama.cpp rotates neighbouring numbers of a head, and transformers its halves."""
    norm_offset: float = 0.0
    """What is added to the weights of a norm."""


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("LLAMA", rotates_in_pairs=True),
    "MistralForCausalLM": Architecture("LLAMA", rotates_in_pairs=True),
    "Qwen2ForCausalLM": Architecture("QWEN2"),
    "Qwen3ForCausalLM": Architecture("QWEN3"),
    "Gemma3ForCausalLM": Architecture("GEMMA3", norm_offset=1.0),
}
"""By the name in a model's config.json."""
ALTERNATIVE = "export.format=safetensors exports any architecture"


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers configuration. Raises ValueError, with what can be
    exported instead, for one that is not written here.
    """
    names = list(getattr(config, "architectures", None) or [])
    name = names[0] if names else str(getattr(config, "model_type", "unknown"))
    if name not in ARCHITECTURES:
        raise ValueError(
            f"the base is a {name}, and GGUF files are written for "
            f"{', '.join(ARCHITECTURES)}; {ALTERNATIVE}"
        )
    return ARCHITECTURES[name]


def tensor_names(architecture: Architecture, num_layers: int) -> Callable[[str], str | None]:
    """The function that names a weight of transformers as llama.cpp does; None for one that
    llama.cpp does not know.
    """
    import gguf

    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.gguf), num_layers)
    return lambda name: table.get_name(name, try_suffixes=(".weight", ".bias"))


def converted(name: str, weight: np.ndarray, architecture: Architecture, config: Any) -> np.ndarray:
    """A weight as llama.cpp keeps it. `name` is transformers'."""
    if architecture.rotates_in_pairs:
        for projection, heads in heads_of(config).items():
            if name.endswith((f"{projection}.weight", f"{projection}.bias")):
                return in_pairs(weight, heads)
    if architecture.norm_offset and name.endswith("norm.weight"):
        return weight + architecture.norm_offset
    return weight


def heads_of(config: Any) -> dict[str, int]:
    """Number of heads of the projections whose rows are rotated."""
    keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return {"q_proj": config.num_attention_heads, "k_proj": keys}


def in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head, its two halves interleaved."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_settings(writer: GGUFWriter, config: Any, num_tokens: int) -> None:
    """The sizes that llama.cpp needs to run a model. Raises ValueError for a rotary embedding that
    is not written here.
    """
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    heads = heads_of(config)
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    size = head_size(config)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_vocab_size(num_tokens)
    rotary = rotary_settings(config)
    writer.add_rope_freq_base(float(rotary.get("rope_theta", 10_000.0)))
    kind = rotary.get("rope_type") or "default"
    if kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rotary["factor"]))
    elif kind not in ("default", "llama3"):
        raise ValueError(
            f"the base stretches its positions by rope_type={kind}, which is not written into GGUF "
            f"files here; {ALTERNATIVE}"
        )
    if getattr(config, "model_type", "") == "gemma3_text":
        if config.query_pre_attn_scalar != size:
            raise ValueError(
                f"the base scales its attention by {config.query_pre_attn_scalar:g}, and llama.cpp "
                f"by the size of a head, {size}; {ALTERNATIVE}"
            )
        writer.add_sliding_window(config.sliding_window)


def head_size(config: Any) -> int:
    """Numbers of a head."""
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def rotary_settings(config: Any) -> dict[str, Any]:
    """The settings of the rotary embedding; of models that have two kinds, those of full
    attention.
    """
    settings = dict(getattr(config, "rope_parameters", None) or {})
    return dict(settings.get("full_attention") or settings)


def rotary_factors(config: Any) -> np.ndarray | None:
    """What Llama 3.1 and later divide their frequencies by, one by one; None for others."""
    rotary = rotary_settings(config)
    if rotary.get("rope_type") != "llama3":
        return None
    size, original = head_size(config), float(rotary["original_max_position_embeddings"])
    frequencies = float(rotary["rope_theta"]) ** -(np.arange(0, size, 2) / size)
    wavelengths = 2 * math.pi / frequencies
    low, high = float(rotary["low_freq_factor"]), float(rotary["high_freq_factor"])
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / float(rotary["factor"]) + smooth)).astype(np.float32)
