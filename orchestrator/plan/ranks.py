"""Which ranks of a LoRA to search, from how much there is to learn. Pure but for the headers of the
base model's weights.

Below the rank at which an adapter has as many parameters as there are supervised tokens, capacity
limits what it can hold (Schulman et al., LoRA Without Regret, 2025). From there on it should not
matter; measured, it still does a little: on data=home that rank is 4, and the best of 4, 8, 16 and
32 was 32. So the search begins at twice that rank and covers three doublings, up to a quarter of
the model's width, where the adapter is no small update any more.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from jobs.config import Adapter
from jobs.files.safetensors_headers import tensor_shapes

NUM_RANKS = 4
LOWEST, HIGHEST = 4, 256
WIDTH_SHARE = 4


def weights_per_rank(base: Path, adapter: Adapter) -> int:
    """How many parameters a unit of rank has: rows and columns of every layer that carries an
    adapter.
    """
    sizes: dict[int, int] = {}
    targets = [target.strip() for target in adapter.targets.split(",")]
    for name, shape in tensor_shapes(base).items():
        match = re.match(r".*?\.(\d+)\..*weight$", name)
        if match is None or len(shape) != 2:
            continue
        layer = name.removesuffix(".weight")
        if targets == ["all-linear"] or any(layer.endswith(f".{target}") for target in targets):
            sizes[int(match[1])] = sizes.get(int(match[1]), 0) + sum(shape)
    num_layers = max(sizes, default=-1) + 1
    first = num_layers - adapter.num_adapted(num_layers)
    return sum(size for layer, size in sizes.items() if layer >= first)


def worth_searching(tokens: float, per_rank: int, hidden: int) -> list[int]:
    """The ranks between which capacity can matter, for so many supervised tokens."""
    widest = max(1, min(HIGHEST, hidden // WIDTH_SHARE))
    top = 2 ** int(math.log2(widest))
    need = 2 ** math.ceil(math.log2(max(tokens / max(per_rank, 1), 1.0)))
    lowest = max(LOWEST, 2 * need)
    highest = min(lowest * 2 ** (NUM_RANKS - 1), top)
    ranks = [highest // 2**power for power in range(NUM_RANKS)]
    return sorted({rank for rank in ranks if rank >= 1})


def middle(ranks: list[int]) -> int:
    """The rank of the first trial: the middle of the list, the higher one of two."""
    return sorted(ranks)[len(ranks) // 2]
