"""One adapter that does what several do together: the weighted sum of their low-rank updates.

The update of expert i at a layer is scale_i * B_i A_i. The sum over i of w_i * scale_i * B_i A_i is
B A, where A has the A_i one below the other and B the w_i * scale_i * B_i side by side: a LoRA of
the sum of their ranks and of scale 1. It is exact, as a merge into a smaller rank is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Expert:
    """A trained adapter as PEFT writes it."""

    state: dict[str, torch.Tensor]
    """By PEFT's names: A (rank, in) and B (out, rank) of each layer."""
    rank: int
    scale: float
    """alpha / rank."""


def read_expert(folder: Path) -> Expert:
    """The adapter in a folder of PEFT's. Raises ValueError for one that no sum of plain low-rank
    updates can be made of.
    """
    from safetensors.torch import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    other = [
        name
        for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if settings.get(name)
    ]
    state = load_file(str(folder / "adapter_model.safetensors"))
    foreign = [name for name in state if not name.endswith((A, B))]
    if other or foreign:
        raise ValueError(f"{folder} holds more than a plain LoRA: {', '.join([*other, *foreign])}")
    rank = int(settings["r"])
    return Expert(state, rank, float(settings["lora_alpha"]) / rank)


def merged(experts: Sequence[Expert], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted sum of the experts' updates as the tensors of one adapter of scale 1, whose rank
    is the sum of theirs. Raises ValueError for experts of different layers.

    A [sum of ranks, in] and B [out, sum of ranks], in the experts' own format.
    """
    layers = [sorted(expert.state) for expert in experts]
    if any(names != layers[0] for names in layers[1:]):
        raise ValueError(
            "the experts were not trained on the same layers, so nothing can be merged"
        )
    state = {}
    for name in layers[0]:
        if name.endswith(A):
            state[name] = torch.cat([expert.state[name] for expert in experts], 0)
        else:
            scaled = [
                weight * expert.scale * expert.state[name]
                for expert, weight in zip(experts, weights, strict=True)
            ]
            state[name] = torch.cat(scaled, 1)
    return state


def total_rank(experts: Sequence[Expert]) -> int:
    """The rank of what `merged` gives."""
    return sum(expert.rank for expert in experts)
