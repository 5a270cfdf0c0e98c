"""The forms in which a version can be exported, by the names that export.format takes.

Imports the standard library only: the command line names them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["safetensors", "gguf", "gguf-adapter", "gguf-k", "onnx"]


@dataclass(frozen=True)
class Format:
    """One form."""

    name: str
    kind: Kind
    quantization: str = ""
    """As llama.cpp names it, or onnxruntime-genai."""
    bits: float = 16.0
    """Of a weight in a layer, its share of the scales included."""
    most_divergence: float = 1.0
    """Mean Kullback-Leibler divergence per token from the trained model, in nats, above which the
    file is taken for a broken one. A quantised file is refused only where it is far off: what it
    loses is told by its score.
    """
    fewest_equal: float = 0.5
    """Share of the tokens whose most likely one must be the trained model's."""


FORMATS = {
    form.name: form
    for form in (
        Format("safetensors", "safetensors", "F32", 32.0, 1e-4, 0.99),
        Format("gguf-f16", "gguf", "F16", 16.0, 5e-3, 0.97),
        Format("gguf-q8_0", "gguf", "Q8_0", 8.5, 0.05, 0.9),
        Format("gguf-q5_1", "gguf", "Q5_1", 6.0, 0.5, 0.6),
        Format("gguf-q5_0", "gguf", "Q5_0", 5.5, 0.5, 0.6),
        Format("gguf-q4_1", "gguf", "Q4_1", 5.0),
        Format("gguf-q4_0", "gguf", "Q4_0", 4.5),
        Format("gguf-q4_k_m", "gguf-k", "Q4_K_M", 4.9),
        Format("gguf-q5_k_m", "gguf-k", "Q5_K_M", 5.7, 0.5, 0.6),
        Format("gguf-q6_k", "gguf-k", "Q6_K", 6.6, 0.1, 0.8),
        Format("onnx-fp32", "onnx", "FP32", 32.0, 5e-3, 0.97),
        Format("onnx-int8", "onnx", "INT8", 9.0, 0.05, 0.9),
        Format("onnx-int4", "onnx", "INT4", 5.0),
        Format("gguf-adapter", "gguf-adapter", "F32", 32.0, 5e-3, 0.97),
    )
}
GGUF = "gguf-f16"
"""What everything else that llama.cpp reads is made of."""
