"""What of a base model decides how long it takes: layers, weights, width."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.base_models.hf_folder import num_weights

USUAL_LAYERS = 12
"""Of a model whose configuration does not say how many it has."""


@dataclass(frozen=True)
class Shape:
    """What of a base model decides its cost."""

    layers: int
    layer_weights: float
    """Of all layers together."""
    head_weights: float
    hidden: int = 0
    """Width of what passes between two layers; 0 where that is not known."""


def model_settings(folder: Path) -> dict[str, Any]:
    """The configuration of the base model in a folder, or of its part that reads text; empty where
    it cannot be read.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings.get("text_config") or settings


def hidden_size(folder: Path) -> int:
    """The width of the base model in a folder; 0 where its configuration does not say."""
    settings = model_settings(folder)
    return int(settings.get("hidden_size") or settings.get("n_embd") or 0)


def num_layers(folder: Path) -> int:
    """How many layers it has; 0 where its configuration does not say."""
    settings = model_settings(folder)
    names = ("num_hidden_layers", "n_layer", "num_layers")
    return int(next((settings[name] for name in names if settings.get(name)), 0))


@functools.lru_cache(maxsize=16)
def shape_of(folder: Path) -> Shape:
    """The shape of the base model in a folder, from its configuration and the headers of its
    weights.
    """
    settings = model_settings(folder)
    layers = num_layers(folder) or USUAL_LAYERS
    head = float((settings.get("vocab_size") or 0) * hidden_size(folder))
    weights = float(max(num_weights(folder), 1))
    tables = head if settings.get("tie_word_embeddings", True) else 2 * head
    return Shape(layers, max(weights - tables, weights * 0.05), head, hidden_size(folder))
