"""Moves all tensors of a packed batch to a device in one copy per number format.

The tensors are concatenated to pools, the pools are copied, and the batch is rebuilt from views
into them. torch.utils._pytree does not look into dataclasses, so `mapped` walks them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from jobs.pack.batch.packed_batch import PackedBatch


def mapped(value: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of nested dataclasses, lists and dictionaries in which `move` has been applied to
    every tensor, always in the same order.
    """
    if isinstance(value, torch.Tensor):
        return move(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{field.name: mapped(getattr(value, field.name), move) for field in fields(value)},
        )
    if isinstance(value, list):
        return [mapped(item, move) for item in value]
    if isinstance(value, dict):
        return {key: mapped(item, move) for key, item in value.items()}
    return value


Kind = tuple[torch.dtype, str]
"""Format of a tensor and the device it comes from: cached hidden states are on the GPU already."""


def kind_of(tensor: torch.Tensor) -> Kind:
    """The pool that a tensor belongs to."""
    return tensor.dtype, tensor.device.type


def pooled(layout: PackedBatch) -> dict[Kind, torch.Tensor]:
    """The concatenated tensors (N,) of a batch by kind.

    Each in its own format.
    """
    by_kind: dict[Kind, list[torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        by_kind.setdefault(kind_of(tensor), []).append(tensor.flatten())
        return tensor

    mapped(layout, note)
    return {kind: torch.cat(tensors) for kind, tensors in by_kind.items()}


def placed(layout: PackedBatch, pools: dict[Kind, torch.Tensor]) -> PackedBatch:
    """A batch of the same shapes whose tensors are views into `pools`."""
    used = dict.fromkeys(pools, 0)

    def take(tensor: torch.Tensor) -> torch.Tensor:
        kind = kind_of(tensor)
        start = used[kind]
        used[kind] += tensor.numel()
        return pools[kind][start : start + tensor.numel()].view(tensor.shape)

    return mapped(layout, take)


def to_device(layout: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch on a device."""
    if device.type == "cpu":
        return layout
    return placed(layout, {kind: pool.to(device) for kind, pool in pooled(layout).items()})
