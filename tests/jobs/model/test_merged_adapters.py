"""Several adapters as one: the weighted sum of their updates, exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.model.merged_adapters import A, B, Expert, merged, read_expert, total_rank

LAYERS = {"q_proj": (24, 16), "down_proj": (40, 24)}
"""Width in and out."""


def expert(seed: int, rank: int, alpha: float, dtype: torch.dtype = torch.float64) -> Expert:
    """An adapter with random weights."""
    stream = torch.Generator().manual_seed(seed)
    state = {}
    for name, (width_in, width_out) in LAYERS.items():
        state[name + A] = torch.randn(rank, width_in, dtype=dtype, generator=stream)
        state[name + B] = torch.randn(width_out, rank, dtype=dtype, generator=stream)
    return Expert(state, rank, alpha / rank)


def dense(one: Expert, name: str) -> torch.Tensor:
    """The update of a layer (out, in)."""
    return one.scale * one.state[name + B] @ one.state[name + A]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("weights", [(0.2, 0.5, 0.3), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_merged_update_is_the_weighted_sum_of_the_dense_updates(
    dtype: torch.dtype, close: float, weights: tuple[float, ...]
) -> None:
    experts = [expert(1, 4, 8.0, dtype), expert(2, 3, 32.0, dtype), expert(3, 8, 8.0, dtype)]
    state = merged(experts, weights)
    assert total_rank(experts) == 15
    for name, (width_in, width_out) in LAYERS.items():
        a, b = state[name + A], state[name + B]
        assert (a.shape, b.shape) == ((15, width_in), (width_out, 15))
        expected = sum(w * dense(e, name) for e, w in zip(experts, weights, strict=True))
        assert torch.is_tensor(expected)
        scale = expected.abs().max()
        assert ((b @ a - expected).abs().max() / scale) < close


def test_experts_of_other_layers_are_refused() -> None:
    other = expert(1, 4, 8.0)
    del other.state["q_proj" + A], other.state["q_proj" + B]
    with pytest.raises(ValueError, match="not trained on the same layers"):
        merged([expert(1, 4, 8.0), other], [0.5, 0.5])


def test_an_adapter_is_read_as_peft_writes_it_and_another_kind_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    written = expert(1, 4, 8.0, torch.float32)
    save_file(written.state, str(tmp_path / "adapter_model.safetensors"))
    settings = {"r": 4, "lora_alpha": 8.0, "use_dora": False, "rank_pattern": {}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    found = read_expert(tmp_path)
    assert (found.rank, found.scale) == (4, 2.0)
    assert all(torch.equal(found.state[name], written.state[name]) for name in written.state)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(ValueError, match="use_dora"):
        read_expert(tmp_path)
