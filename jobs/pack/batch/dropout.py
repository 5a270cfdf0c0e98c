"""Dropout in a pack: each slot's masks over its own stretch of the flat row, the ones that it would
draw alone (jobs/model/seeded_dropout.py).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from jobs.model.seeded_dropout import DropoutSpec
from jobs.pack.batch.packed_batch import Group
from jobs.pack.batch.prefix_groups import PrefixGroup


def draw(
    groups: list[Group], parts: list[PrefixGroup], drops: dict[int, DropoutSpec]
) -> list[Group]:
    """The groups of a pass with the masks that their tokens take; slots that are not in `drops`
    drop nothing.
    """
    chosen: dict[int, list[int]] = {}
    for part in parts:
        if part.slot in drops:
            chosen.setdefault(part.slot, []).extend(choose(part, drops[part.slot]))
    return [
        with_masks(group, chosen, drops) if drops.keys() & set(group.slots) else group
        for group in groups
    ]


def with_masks(group: Group, chosen: dict[int, list[int]], drops: dict[int, DropoutSpec]) -> Group:
    """A group of which some slots drop something."""
    own = [chosen.get(slot, []) for slot in group.slots]
    flat = [index for each in own for index in each + [0] * (group.length - len(each))]
    return replace(group, drops=tuple(map(drops.get, group.slots)), chosen=torch.tensor(flat))


def choose(part: PrefixGroup, drop: DropoutSpec) -> list[int]:
    """The mask of each of a portion's tokens, in the order of the flat row."""
    chosen, state = drop.choose(part.examples[0].ids[: part.prefix], drop.start)
    for example in part.examples:
        chosen += drop.choose(example.ids[part.prefix : -1], state)[0]
    return chosen


def masks(group: Group, layer: int, like: torch.Tensor) -> torch.Tensor:
    """What the group's inputs (S, length, in) of a layer are multiplied by."""
    out = torch.ones_like(like)
    tables: dict[DropoutSpec, torch.Tensor] = {}
    assert group.chosen is not None
    for drop, chosen, own in zip(group.drops, group.chosen.split(group.length), out, strict=True):
        if drop is not None:
            if drop not in tables:
                tables[drop] = drop.table(layer, like.shape[-1], like.dtype, like.device)
            torch.index_select(tables[drop], 0, chosen, out=own)
    return out
