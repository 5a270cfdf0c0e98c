"""llama.cpp's K-quants, by its own quantiser, which the package llama-cpp-python has."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from jobs.export.formats import Format


def check_installed() -> None:
    """Raise ValueError, with what to do instead, where the quantiser is not installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise ValueError(
            "K-quants need llama.cpp's own quantiser: pip install 'slm-orchestrator[k-quants]' "
            "(the package llama-cpp-python, which is compiled while it is installed); without it "
            "there are export.format=gguf-q4_0, gguf-q4_1, gguf-q5_0, gguf-q5_1 and gguf-q8_0"
        )


def quantize(source: Path, target: Path, form: Format) -> None:
    """Write `source`, in 16 bits, to `target`. Raises ValueError where llama.cpp refuses."""
    llama_cpp: Any = importlib.import_module("llama_cpp")

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{form.quantization}")
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), settings)
    if code != 0 or not target.exists():
        raise ValueError(f"llama.cpp could not quantise {source.name} to {form.quantization}")
