"""Whether a saved transformers model answers as the one in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jobs.export.divergence import model_reference
from jobs.export.formats import FORMATS
from jobs.export.merged_model import MergedModel
from jobs.model.loading import load


@torch.no_grad()
def check_saved(
    folder: Path, merged: MergedModel, prompts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Load the folder anew and compare. Raises ValueError where it is another model."""
    form = FORMATS["safetensors"]
    again = model_reference(load(folder, torch.float32, torch.device("cpu")))
    reference = model_reference(merged.model)
    total, largest, equal, tokens = 0.0, 0.0, 0, 0
    for ids in prompts:
        wanted = torch.log_softmax(reference(ids).double(), -1)
        actual = torch.log_softmax(again(ids).double(), -1)
        values = (wanted.exp() * (wanted - actual)).sum(-1)
        total += float(values.sum())
        largest = max(largest, float(values.max()))
        equal += int((wanted.argmax(-1) == actual.argmax(-1)).sum())
        tokens += len(ids)
    mean, share = max(total / tokens, 0.0), equal / tokens
    if not (mean <= form.most_divergence and share >= form.fewest_equal):
        raise ValueError(
            f"{folder.name} is not the trained model: it is {mean:.2g} nats per token away from "
            f"it, and its most likely token is the same at {share:.1%}"
        )
    return {"mean": mean, "largest": largest, "equal": share, "tokens": tokens}
