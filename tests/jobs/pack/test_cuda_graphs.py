"""Passes that are filled up to a few sizes, so that a GPU may replay them: what fills up takes no
part, and nothing asks for a number.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jobs.config import BaseModel
from jobs.model import frozen_linear
from jobs.pack.attention import gather_scatter
from jobs.pack.batch.builder import room_for
from jobs.pack.batch.packed_batch import BatchShape
from jobs.pack.batch.transfer import placed, pooled
from jobs.pack.cuda_graphs import CapturedGraph
from tests.support.packs import open_pack, run, varied
from tests.support.plain import ModelOf, architecture, make


def test_passes_of_any_composition_soon_fit_a_few_frames(base: BaseModel, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    lines = [
        {
            "prompt": f"{'alpha' if i % 5 else 'a longer beginning'} {'x' * (i * i % 23)}{i}",
            "completion": "A" * (1 + i % 3),
        }
        for i in range(200)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    pack = open_pack(
        base,
        {n: dataclasses.replace(make(file, batch_size=8, steps=100), seed=n) for n in range(4)},
        frames=True,
    )
    used = []
    assert pack.frames is not None
    find = pack.frames.find
    pack.frames.find = lambda *given: used.append(find(*given)) or used[-1]  # type: ignore[method-assign]
    run(pack, 60)
    late = used[-30:]
    assert sum(frame.uses > 2 for frame in late) >= 27, "most passes could be replayed"
    for frame in used:
        assert frame.room.num_tokens <= 1.25 * 1.25 * min(other.room.num_tokens for other in used)


def test_what_fills_a_row_up_takes_no_part(base: BaseModel, rows: Path) -> None:
    gradients = []
    for spare in (0, 40):
        pack = open_pack(base, varied(rows), frames=True)
        assert pack.frames is not None
        find = pack.frames.find

        def roomier(
            needed: BatchShape, key: Any, find: Any = find, spare: int = spare
        ) -> CapturedGraph:
            frame = find(needed, key)
            frame.room = needed.of([size + spare * (size > 1) for size in needed.sizes])
            return frame

        pack.frames.find = roomier  # type: ignore[method-assign]
        pack.gradients({number: slot.course.batch(0) for number, slot in pack.slots.items()})
        gradients.append({number: slot.adapter.gradient for number, slot in pack.slots.items()})
    for number, gradient in gradients[0].items():
        assert torch.linalg.norm(gradient - gradients[1][number]) <= 1e-5 * torch.linalg.norm(
            gradient
        )


@pytest.mark.parametrize("kind", ["GPT2", "LongRope"])
def test_what_fills_a_row_up_stands_at_no_place_that_a_model_does_not_know(
    kind: str, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture(
        kind, tmp_path / "base", base, **({"original": 128} if kind == "LongRope" else {})
    )
    trials = {1: make(rows, batch_size=1), 2: make(rows, batch_size=40)}
    gradients = []
    for frames in (True, False):
        pack = open_pack(model, trials, frames=frames)
        parts = [
            part
            for number, slot in pack.slots.items()
            for part in pack.share(number, slot.course.batch(0))
        ]
        pack.active.arrange(list(pack.slots))
        needed = room_for(parts, pack.family)
        assert not frames or pack.lay(parts, room=needed).num_padded > 256
        pack.gradients({number: slot.course.batch(0) for number, slot in pack.slots.items()})
        gradients.append([slot.adapter.gradient for slot in pack.slots.values()])
    for filled, ragged in zip(*gradients, strict=True):
        assert torch.linalg.norm(filled - ragged) <= 1e-5 * torch.linalg.norm(ragged)


class Asked(TorchDispatchMode):
    """Notes which operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        given = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if (
            len(given) > 1
            and any(arg.dim() == 0 for arg in given)
            and any(arg.dim() > 0 for arg in given)
        ):
            self.names.add(f"{func} with a number in a tensor")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["tiny", "Gemma3Text", "Gemma2", "Phi3", "GPT2"])
def test_a_pass_that_may_be_recorded_asks_the_device_for_no_number(
    kind: str, rows: Path, monkeypatch: pytest.MonkeyPatch, model_of: ModelOf
) -> None:
    monkeypatch.setattr(gather_scatter, "fuses", lambda query, cap: cap is None)
    monkeypatch.setattr(frozen_linear, "has_kernels", lambda weight: False)
    pack = open_pack(
        model_of(kind),
        varied(rows),
        frames=True,
    )
    assert pack.frames is not None
    asked = Asked()

    def watched(frame: CapturedGraph, layout: Any, work: Any) -> torch.Tensor:
        there = frame.fill(layout, pack.device)
        with asked:
            return work(there)

    monkeypatch.setattr(pack.frames, "run", watched)
    run(pack, 2)
    assert "aten.mm.default" in asked.names
    bad = (
        "_local_scalar_dense",
        "nonzero",
        "lift_fresh",
        "masked_select",
        "scalar_tensor",
        "unique",
        "_to_copy.device",
    )
    assert not [name for name in asked.names if any(part in name for part in bad)]
    numbers = [name for name in asked.names if name.endswith("a number in a tensor")]
    assert not [
        name for name in numbers if "mul" not in name and "attention" not in name
    ]  # a fused attention keeps its seed there


def test_what_is_on_the_gpu_already_does_not_travel_with_the_rest(
    base: BaseModel, rows: Path
) -> None:
    pack = open_pack(base, varied(rows), frames=False)
    parts = [
        part
        for number, slot in pack.slots.items()
        for part in pack.share(number, slot.course.batch(0))
    ]
    layout = pack.lay(parts)
    layout.below = torch.empty(
        1, layout.ids.shape[1], 64, device="meta"
    )  # of the same format as the weights of the tokens
    pools = pooled(layout)
    assert {kind for kind in pools if kind[0] == torch.float32} == {
        (torch.float32, "cpu"),
        (torch.float32, "meta"),
    }
    there = placed(layout, {kind: pool.clone() for kind, pool in pools.items()})
    assert torch.equal(there.weights, layout.weights) and torch.equal(there.ids, layout.ids)
    assert (
        there.below is not None
        and there.below.shape == layout.below.shape
        and there.below.device.type == "meta"
    )
