"""Whether an error means that memory ran out."""

from __future__ import annotations

import re

import torch

OUT_OF_MEMORY = re.compile(
    "can't allocate memory|could not create a (memory|primitive)(?! descriptor)"
)
"""How torch and oneDNN say on a CPU that there is no memory, for numbers or kernels; descriptors
are missing where there is no kernel.
"""


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or OUT_OF_MEMORY.search(str(error)) is not None
    )
