"""Which layers carry an adapter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from jobs.config import Adapter

if TYPE_CHECKING:
    from jobs.model.language_model import LanguageModel


def targets_of(model: LanguageModel, adapter: Adapter) -> str | list[str]:
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
    first, num_layers = first_adapted(model, adapter)
    layers = {name: layer for name in meant if (layer := layer_of(name)) is not None}
    upper = [name for name, layer in layers.items() if layer >= first]
    outside = [name for name in meant if name not in layers and wanted != "all-linear"]
    if not upper and (layers or wanted == "all-linear"):
        have = f"the last {num_layers - first} of {num_layers} layers have no {adapter.targets}"
        raise ValueError(f"adapter.layers={adapter.layers:g}: {have}; adapter.layers=1 helps")
    return [*upper, *outside] or wanted


def layer_of(name: str) -> int | None:
    """The layer that a module or weight belongs to, by the first number in its name: those that
    follow count experts.
    """
    match = re.match(r".*?\.(\d+)\.", name)
    return int(match[1]) if match else None


def first_adapted(model: LanguageModel, adapter: Adapter) -> tuple[int, int]:
    """The first of the layers that `adapter.layers` asks for, and how many layers the model has."""
    num_layers = (
        max(
            (layer for name, _ in model.named_modules() if (layer := layer_of(name)) is not None),
            default=-1,
        )
        + 1
    )
    return num_layers - adapter.num_adapted(num_layers), num_layers


def check_place(model: LanguageModel, adapter: Adapter, first: int) -> None:
    """Raise ValueError for an adapter below the layers that were asked for, where PEFT puts it on
    all experts of a name.
    """
    for name, _ in model.named_parameters():
        if "lora_" in name and (layer := layer_of(name)) is not None and layer < first:
            layer_name = name.partition(".lora_")[0].removeprefix("base_model.model.")
            text = (
                f"adapter.layers={adapter.layers:g}: PEFT puts adapters on {layer_name}, too, "
                f"below layer {first}"
            )
            raise ValueError(
                f"{text}; adapter.layers=1, or adapter.targets that name no experts, helps"
            )


def means(wanted: str | list[str], name: str, module: torch.nn.Module) -> bool:
    """Whether PEFT would take a module of this name for a target."""
    if wanted == "all-linear":
        return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    return name.endswith(tuple(f".{target}" for target in wanted)) or name in wanted
