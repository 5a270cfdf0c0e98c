"""Which layers get adapters: those of the last layers of a model, and the targets that are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.config import Adapter, BaseModel
from jobs.model.loading import attach, restore
from jobs.model.lora_targets import targets_of
from tests.support.plain import CPU, architecture


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,down_proj"])
@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, {2, 3}), (0.01, {3}), (1e-8, {3}), (0.26, {2, 3}), (0.25, {3}), (0.75, {1, 2, 3})],
)
def test_the_last_layers_of_a_model_are_adapted(
    targets: str, share: float, expected: set[int], base: BaseModel, tmp_path: Path
) -> None:
    model = restore(
        architecture("Qwen2", tmp_path / "base", base, num_hidden_layers=4),
        None,
        torch.float32,
        CPU,
    )
    named = targets_of(model, Adapter(targets=targets, layers=share))
    assert {int(name.split(".")[2]) for name in named} == expected
    assert len(named) == len(expected) * (7 if targets == "all-linear" else 2)
    adapted = attach(model, Adapter(targets=targets, layers=share), 0)
    assert {
        name.removesuffix(".lora_A.default.weight")
        for name, _ in adapted.named_parameters()
        if "lora_A" in name
    } == {f"base_model.model.{name}" for name in named}


def test_targets_that_the_last_layers_have_not_are_named(base: BaseModel, tmp_path: Path) -> None:
    model = restore(
        architecture("Qwen2", tmp_path / "base", base, num_hidden_layers=4),
        None,
        torch.float32,
        CPU,
    )
    del model.model.layers[3].mlp.down_proj
    with pytest.raises(
        ValueError,
        match=r"adapter.layers=0.25: the last 1 of 4 layers have no down_proj; adapter.layers=1 helps",
    ):
        targets_of(model, Adapter(targets="down_proj", layers=0.25))
    with pytest.raises(ValueError, match="adapter.targets=nowhere"):
        attach(model, Adapter(targets="nowhere", layers=0.25), 0)


def test_targets_outside_of_layers_are_adapted_too_where_they_are_named(
    base: BaseModel, tmp_path: Path
) -> None:
    model = restore(
        architecture("Qwen2", tmp_path / "base", base, num_hidden_layers=4),
        None,
        torch.float32,
        CPU,
    )
    assert targets_of(model, Adapter(targets="q_proj,lm_head", layers=0.25)) == [
        "model.layers.3.self_attn.q_proj",
        "lm_head",
    ]
    assert targets_of(model, Adapter(targets="lm_head", layers=0.25)) == ["lm_head"]


def test_layers_of_a_kind_of_their_own_are_linear_ones_too(base: BaseModel, tmp_path: Path) -> None:
    own = {"new_decoder_architecture": True, "num_kv_heads": 2, "num_hidden_layers": 8}
    model = restore(
        architecture("Falcon", tmp_path / "base", base, **own), None, torch.float32, CPU
    )
    assert type(model.transformer.h[7].mlp.dense_h_to_4h).__name__ != "Linear"
    assert {int(name.split(".")[2]) for name in targets_of(model, Adapter(layers=0.25))} == {6, 7}


@pytest.mark.parametrize(
    ("kind", "targets"), [("Qwen3Moe", "gate_proj,up_proj,down_proj"), ("Mixtral", "w1,w2,w3")]
)
def test_experts_that_get_adapters_in_all_layers_are_refused_with_the_remedy(
    kind: str, targets: str, base: BaseModel, tmp_path: Path
) -> None:
    few = {"num_experts": 4} if kind == "Qwen3Moe" else {"num_local_experts": 4}
    model = restore(
        architecture(kind, tmp_path / "base", base, num_hidden_layers=4, **few),
        None,
        torch.float32,
        CPU,
    )
    with pytest.raises(
        ValueError,
        match=r"adapter\.layers=0\.25: PEFT puts adapters on model\.layers\.0\..*experts.* below layer 3; adapter\.layers=1",
    ):
        attach(model, Adapter(targets=targets, layers=0.25), 0)
