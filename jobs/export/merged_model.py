"""A version's model as one: the base with its adapter added to the weights, or the whole model that
was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel
from jobs.model.loading import restore

PREFIX = "base_model.model."


@dataclass(frozen=True)
class MergedModel:
    """A model in memory, and which of its weights training has changed."""

    model: Any
    changed: frozenset[str] | None
    """Names of weights; None: any."""


def merged_model(base: BaseModel, trained: Path) -> MergedModel:
    """The model that is exported, in float32 on the processor. Raises ValueError for files that
    cannot be loaded.
    """
    try:
        model: Any = restore(base, trained, torch.float32, torch.device("cpu"))
        if not (trained / "adapter_config.json").exists():
            return MergedModel(model, None)
        changed = frozenset(
            f"{name.removeprefix(PREFIX)}.weight"
            for name, module in model.named_modules()
            if hasattr(module, "lora_A")
        )
        return MergedModel(model.merge_and_unload(safe_merge=True).eval(), changed)
    except (RuntimeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot load {trained}: {type(error).__name__}: {reason}; fetch the version again"
        ) from error


def save_merged(merged: MergedModel, base: BaseModel, target: Path) -> None:
    """Write the model as safetensors with all that transformers needs beside it."""
    from jobs.export.model_folder import copy_tokenizer

    merged.model.save_pretrained(str(target))
    copy_tokenizer(base, target)
