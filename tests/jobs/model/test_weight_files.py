"""Weights are read from safetensors and from nothing else, wherever a folder is from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.config import BaseModel
from jobs.model.loading import read, restore


@pytest.fixture(autouse=True)
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that is opened fails the test."""

    def opened(*arguments: Any, **options: Any) -> Any:
        pytest.fail("a pickle is read")

    monkeypatch.setattr(torch, "load", opened)


def test_a_whole_model_without_safetensors_is_refused(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base.path, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load the model in .*safetensors"):
        read(folder)


def test_an_adapter_without_safetensors_is_refused(base: BaseModel, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="it has no adapter_model.safetensors"):
        restore(base, tmp_path, torch.float32, torch.device("cpu"))
