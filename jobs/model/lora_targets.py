"""Which layers carry an adapter."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from jobs.config import Adapter


def targets_of(model: Any, adapter: Adapter) -> str | list[str]:
    """What PEFT is to put an adapter on: the settings' own words for all layers, or the full names
    of what they mean in the last ones and, where they name it, outside of layers. Raises ValueError
    when the last ones have none of it.
    """
    wanted = (
        adapter.targets
        if adapter.targets == "all-linear"
        else [name.strip() for name in adapter.targets.split(",")]
    )
    if adapter.layers >= 1:
        return wanted
    meant = [name for name, module in model.named_modules() if means(wanted, name, module)]
    first, number = first_adapted(model, adapter)
    layers = {name: layer for name in meant if (layer := layer_of(name)) is not None}
    upper = [name for name, layer in layers.items() if layer >= first]
    outside = [name for name in meant if name not in layers and wanted != "all-linear"]
    if not upper and (layers or wanted == "all-linear"):
        have = f"the last {number - first} of {number} layers have no {adapter.targets}"
        raise ValueError(f"adapter.layers={adapter.layers:g}: {have}; adapter.layers=1 helps")
    return [*upper, *outside] or wanted


def layer_of(name: str) -> int | None:
    """The layer that a module or weight belongs to, by the first number in its name: those that
    follow count experts.
    """
    found = re.match(r".*?\.(\d+)\.", name)
    return int(found[1]) if found else None


def first_adapted(model: Any, adapter: Adapter) -> tuple[int, int]:
    """The first of the layers that `adapter.layers` asks for, and how many layers the model has."""
    number = (
        max(
            (layer for name, _ in model.named_modules() if (layer := layer_of(name)) is not None),
            default=-1,
        )
        + 1
    )
    return number - min(max(math.ceil(round(adapter.layers * number, 6)), 1), number), number


def check_place(model: Any, adapter: Adapter, first: int) -> None:
    """Raise ValueError for an adapter below the layers that were asked for, where PEFT puts it on
    all experts of a name.
    """
    for name, _ in model.named_parameters():
        if "lora_" in name and (layer := layer_of(name)) is not None and layer < first:
            place = name.partition(".lora_")[0].removeprefix("base_model.model.")
            text = (
                f"adapter.layers={adapter.layers:g}: PEFT puts adapters on {place}, too, below "
                f"layer {first}"
            )
            raise ValueError(
                f"{text}; adapter.layers=1, or adapter.targets that name no experts, helps"
            )


def means(wanted: str | list[str], name: str, module: torch.nn.Module) -> bool:
    """Whether PEFT would take a module of this name for a target."""
    if wanted == "all-linear":
        return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    return name.endswith(tuple(f".{target}" for target in wanted)) or name in wanted
