"""What a pack takes and what it does not: models, checkpoints, norms."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.config import BaseModel
from jobs.pack.engine import NotPackable, Pack
from jobs.pack.layers.rms_norm import equivalent
from jobs.pack.opening import enable_packing
from tests.support.packs import assert_ends_alike, open_pack, run, varied
from tests.support.plain import architecture, make


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("StableLm", "keyword arguments"),
        ("Bloom", "losses differ"),
        ("Lfm2", "differ"),
        ("GPT2", "dropout 0.1"),
    ],
)
def test_a_model_that_does_not_fit_is_told_apart_with_the_reason(
    kind: str, reason: str, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "GPT2": {"resid_pdrop": 0.1},
        "Lfm2": {"layer_types": ["conv", "full_attention"]},
    }
    changed = changes.get(kind, {})
    model = architecture(kind, tmp_path / "base", base, **changed)
    trial = make(rows)
    try:
        said = enable_packing(Pack(model, trial), trial)
    except NotPackable as error:
        said = str(error)
    assert said and reason in said


def test_a_model_that_computes_otherwise_while_it_trains_takes_the_plain_executor(
    base: BaseModel, rows: Path
) -> None:
    pack = Pack(base, make(rows))
    pack.model.model.norm.register_forward_hook(
        lambda module, inputs, output: output * 1.5 if module.training else output
    )
    assert "losses differ" in str(enable_packing(pack, make(rows)))
    assert not pack.model.training


def test_a_rotary_embedding_that_looks_at_the_longest_row_packs_up_to_where_it_does_not(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture("LongRope", tmp_path / "base", base, original=100)
    for length, packs in ((128, False), (100, True)):
        trial = make(rows, max_length=length)
        problem = enable_packing(Pack(model, trial), trial)
        assert problem is None if packs else "train.max_length=100 would pack" in str(problem), (
            problem
        )


FEW_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_beside_experts_attention_is_packed(
    kind: str, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture(kind, tmp_path / "base", base, **FEW_EXPERTS)
    trials = {
        number: dataclasses.replace(make(rows, targets="q_proj,v_proj", rank=rank), seed=number)
        for number, rank in ((1, 4), (2, 8))
    }
    pack = open_pack(model, trials)
    losses = run(pack, 20)
    for number in trials:
        assert_ends_alike(pack, number, losses[number], model)


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_experts_that_peft_wraps_are_told_apart_with_the_reason(
    kind: str, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture(kind, tmp_path / "base", base, **FEW_EXPERTS)
    with pytest.raises(NotPackable, match="PEFT cannot attach to its structure alone"):
        Pack(model, make(rows))


def test_a_checkpoint_of_another_rank_is_refused(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    pack = open_pack(base, varied(rows))
    pack.save(1, tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    with pytest.raises(ValueError, match="another rank"):
        pack.join(2, varied(rows)[2], tmp_path / "copy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_fast_norm_gives_the_modules_own_output_and_gradient(
    dtype: torch.dtype, offset: float
) -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    module = Gemma3RMSNorm(48, 1e-6) if offset else LlamaRMSNorm(48, 1e-6)
    torch.nn.init.normal_(module.weight, 1 - offset, 0.2)
    module = module.to(dtype).requires_grad_(False)
    fast = equivalent(module)
    assert fast is not None
    rows, given = torch.randn(2, 1, 7000, 48).to(dtype)
    outcomes = []
    for own in (module, fast):
        before = rows.clone().requires_grad_(True)
        out = own(before)
        out.backward(given)
        assert torch.equal(before, rows)
        outcomes.append((out.detach().float(), before.grad.float()))  # type: ignore[union-attr]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert all(
        torch.allclose(one, other, rtol=tolerance, atol=tolerance)
        for one, other in zip(*outcomes, strict=True)
    )
    assert equivalent(torch.nn.LayerNorm(48)) is None
