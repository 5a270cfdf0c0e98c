"""What a checkpoint holds beside the model to go on from: the optimizer's tensors as safetensors,
all other facts as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from jobs.files.json_types import JsonObject

TENSORS = "state.safetensors"
FACTS = "state.json"


def write(
    folder: Path,
    optimizer: torch.optim.Optimizer,
    facts: JsonObject,
    tensors: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write an optimizer's state, and what else is needed."""
    from safetensors.torch import save_file

    state = optimizer.state_dict()
    flat = {
        f"{index}.{name}": value
        for index, moments in state["state"].items()
        for name, value in moments.items()
    }
    save_file(
        {name: value.contiguous() for name, value in (flat | (tensors or {})).items()},
        str(folder / TENSORS),
    )
    text = json.dumps(facts | {"param_groups": state["param_groups"]}, indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def read(
    folder: Path, device: torch.device
) -> tuple[JsonObject, JsonObject, dict[str, torch.Tensor]]:
    """The optimizer's state for `load_state_dict`, the facts, and the further tensors."""
    from safetensors.torch import load_file

    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    groups = [group | {"betas": tuple(group["betas"])} for group in facts.pop("param_groups")]
    state: dict[int, dict[str, torch.Tensor]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, value in load_file(str(folder / TENSORS), device=str(device)).items():
        index, dot, key = name.partition(".")
        if dot and index.isdigit():
            state.setdefault(int(index), {})[key] = value
        else:
            tensors[name] = value
    return {"state": state, "param_groups": groups}, facts, tensors
