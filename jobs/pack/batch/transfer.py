"""All tensors of a packed batch to a device in one copy."""

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
        return [mapped(each, move) for each in value]
    if isinstance(value, dict):
        return {key: mapped(each, move) for key, each in value.items()}
    return value


Kind = tuple[torch.dtype, str]
"""Format of a tensor, and the kind of device that it comes from: what is known of lower layers is
on the GPU already.
"""


def kind_of(tensor: torch.Tensor) -> Kind:
    """With which others it travels."""
    return tensor.dtype, tensor.device.type


def pooled(layout: PackedBatch) -> dict[Kind, torch.Tensor]:
    """All tensors of a layout as one of each kind, so that they travel together."""
    found: dict[Kind, list[torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.setdefault(kind_of(tensor), []).append(tensor.flatten())
        return tensor

    mapped(layout, note)
    return {kind: torch.cat(parts) for kind, parts in found.items()}


def placed(layout: PackedBatch, pools: dict[Kind, torch.Tensor]) -> PackedBatch:
    """A layout whose tensors are those of `pools`, laid out by `pooled` for one of the same
    shapes.
    """
    used = dict.fromkeys(pools, 0)

    def take(tensor: torch.Tensor) -> torch.Tensor:
        kind = kind_of(tensor)
        start = used[kind]
        used[kind] += tensor.numel()
        return pools[kind][start : start + tensor.numel()].view(tensor.shape)

    return mapped(layout, take)


def to_device(layout: PackedBatch, device: torch.device) -> PackedBatch:
    """A layout on a device."""
    if device.type == "cpu":
        return layout
    return placed(layout, {kind: pool.to(device) for kind, pool in pooled(layout).items()})
