"""How a slot starts: the weights that PEFT itself would draw for the trial's seed, without a second
copy of the base.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from jobs.config import Adapter
from jobs.model.loading import attach

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


class Initial:
    """PEFT's adapters for one base model, one per (settings, seed). Holds no weights of the base:
    only its structure.
    """

    def __init__(self, path: str | Path, dtype: torch.dtype) -> None:
        self.path = str(path)
        self.dtype = dtype
        self.draw = cache(self._draw)

    def _draw(self, adapter: Adapter, seed: int) -> tuple[dict[str, torch.Tensor], LoraConfig]:
        """The initial tensors by PEFT's names, and the LoraConfig that goes with them. Raises
        ValueError when no layer is named.
        """
        model = attach(skeleton(self.path, self.dtype), adapter, seed)
        state = {
            name.replace(".default.", "."): weight.detach().clone()
            for name, weight in model.named_parameters()
            if "lora_" in name
        }
        settings = cast("LoraConfig", model.peft_config["default"])
        settings.base_model_name_or_path = self.path
        settings.inference_mode = True
        return state, settings

    def names(self, adapter: Adapter) -> list[str]:
        """The layers that carry an adapter, in PEFT's order."""
        state, _ = self.draw(adapter, 0)
        return [
            name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            for name in state
            if name.endswith("lora_A.weight")
        ]


def skeleton(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The base model's modules without memory for its weights: every layer has the right shape, all
    its entries are one zero.

    `dtype` is the base's: PEFT passes what it draws through that format.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path, local_files_only=True)
        )
    model.name_or_path = path
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            hollow = torch.zeros((), dtype=dtype).expand(weight.shape)
            setattr(module, name, torch.nn.Parameter(hollow, requires_grad=False))
    return model
