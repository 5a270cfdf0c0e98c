"""Dropout in a pack: each slot's tokens take the masks that the slot would draw alone.

jobs/model/seeded_dropout.py draws them by (seed, step, token).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from jobs.model.seeded_dropout import DropoutSpec
from jobs.pack.batch.packed_batch import Group
from jobs.pack.batch.prefix_groups import PrefixGroup


def draw(
    groups: list[Group], prefix_groups: list[PrefixGroup], drops: dict[int, DropoutSpec]
) -> list[Group]:
    """The groups of a pass with the index of each token's mask. Slots outside `drops` drop
    nothing.
    """
    chosen: dict[int, list[int]] = {}
    for prefix_group in prefix_groups:
        if prefix_group.slot in drops:
            chosen.setdefault(prefix_group.slot, []).extend(
                choose(prefix_group, drops[prefix_group.slot])
            )
    return [
        with_masks(group, chosen, drops) if drops.keys() & set(group.slots) else group
        for group in groups
    ]


def with_masks(group: Group, chosen: dict[int, list[int]], drops: dict[int, DropoutSpec]) -> Group:
    """The group with mask indices int64 (S * length,); `chosen` has them by slot."""
    mask_indices = [chosen.get(slot, []) for slot in group.slots]
    flat = [
        index for indices in mask_indices for index in indices + [0] * (group.length - len(indices))
    ]
    return replace(group, drops=tuple(map(drops.get, group.slots)), chosen=torch.tensor(flat))


def choose(prefix_group: PrefixGroup, drop: DropoutSpec) -> list[int]:
    """The mask index of each token of a prefix group, in the order of the flat row."""
    chosen, state = drop.choose(prefix_group.examples[0].ids[: prefix_group.prefix], drop.start)
    for example in prefix_group.examples:
        chosen += drop.choose(example.ids[prefix_group.prefix : -1], state)[0]
    return chosen


def masks(group: Group, layer: int, like: torch.Tensor) -> torch.Tensor:
    """The dropout factors (S, length, in) of a layer's inputs; `like` has their shape.

    In the format of `like`: 0 where an input is dropped, else 1 / (1 - share).
    """
    out = torch.ones_like(like)
    tables: dict[DropoutSpec, torch.Tensor] = {}
    assert group.chosen is not None
    for drop, chosen, slot_mask in zip(
        group.drops, group.chosen.split(group.length), out, strict=True
    ):
        if drop is not None:
            if drop not in tables:
                tables[drop] = drop.table(layer, like.shape[-1], like.dtype, like.device)
            torch.index_select(tables[drop], 0, chosen, out=slot_mask)
    return out
