"""Dropout before an adapter (Hu et al., 2021) that a trial draws alike wherever it is trained:
alone or in a pack, in one pass or in many.

A mask follows from (seed, step, layer) and from the token with all that stands before it, never
from a stream that others draw from. So a beginning that examples have in common may be computed
once: repeated, it would have the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

NUM_MASKS = 1024
"""Masks of each layer and step, among which tokens draw: some thousand tokens share about that
many.
"""
LEVELS = 1 << 16
MULTIPLIER = 6364136223846793005
INCREMENT = 1442695040888963407
WORD = (1 << 64) - 1
"""Knuth's linear congruential generator modulo 2^64, from MMIX."""


@dataclass(frozen=True)
class DropoutSpec:
    """What one trial drops in one step: about `share` of the values that go into its adapter."""

    seed: int
    step: int
    share: float

    @property
    def start(self) -> int:
        """The state before an example's first token."""
        return advance(advance(0, self.seed), self.step)

    def choose(self, ids: list[int], state: int) -> tuple[list[int], int]:
        """Which mask each token takes, and the state after the last: `state` stands for all that is
        before them.
        """
        chosen = []
        for token in ids:
            state = advance(state, token)
            chosen.append((state >> 33) % NUM_MASKS)
        return chosen, state

    def table(
        self, layer: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """All masks of a layer (NUM_MASKS, width): 0, or what makes up for the dropped share. The
        same numbers on every device.
        """
        words = np.random.SFC64([self.seed & WORD, self.step, layer]).random_raw(
            (NUM_MASKS * width + 3) // 4
        )
        dropped = min(round(self.share * LEVELS), LEVELS - 1)
        keep = words.view(np.uint16)[: NUM_MASKS * width] >= dropped
        # Written as the bits of the one number that is no zero: many times quicker than torch's
        # conversion from bool.
        one = torch.tensor(LEVELS / (LEVELS - dropped), dtype=dtype)
        int_format = f"int{8 * one.element_size()}"
        bits = keep.astype(int_format) * one.view(getattr(torch, int_format)).numpy()
        return torch.from_numpy(bits).view(dtype).view(NUM_MASKS, width).to(device)


def advance(state: int, value: int) -> int:
    """The next state, after a token or another whole number."""
    return ((state ^ (value & WORD)) * MULTIPLIER + INCREMENT) & WORD


class DropoutState:
    """What the layers of one plain model drop in the present pass."""

    def __init__(self) -> None:
        self.drop: DropoutSpec | None = None
        """None while nothing is dropped."""
        self.chosen: torch.Tensor | None = None
        """int64 (B, L): the mask of each token of the pass."""

    def see(self, rows: list[list[int]], before: list[int]) -> None:
        """A pass over `rows`, padded on the left, which all follow the tokens `before`."""
        if self.drop is None:
            return
        width = max(map(len, rows))
        self.chosen = torch.zeros(len(rows), width, dtype=torch.long)
        _, state = self.drop.choose(before, self.drop.start)
        for row, ids in enumerate(rows):
            self.chosen[row, width - len(ids) :] = torch.tensor(self.drop.choose(ids, state)[0])


class SeededDropout(torch.nn.Module):
    """Takes the place of the dropout of layer `number` in a PEFT model."""

    def __init__(self, index: int, share: float, dropper: DropoutState) -> None:
        super().__init__()
        self.index = index
        self.share = share
        self.dropper = dropper

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., in) for the tokens of the pass. Where a layer sees others, as experts
        do, torch's own stream draws.
        """
        drop = self.dropper.drop
        chosen = self.dropper.chosen
        if not self.training or drop is None or chosen is None:
            return inputs
        if inputs.shape[:-1].numel() != chosen.numel():
            return torch.nn.functional.dropout(inputs, self.share)
        table = drop.table(self.index, inputs.shape[-1], inputs.dtype, inputs.device)
        return inputs * table[chosen.flatten().to(inputs.device)].view_as(inputs)


def seed_dropout(model: torch.nn.Module, dropper: DropoutState) -> None:
    """Let every adapter of a PEFT model draw its masks through `dropper`."""
    layers = [module for module in model.modules() if hasattr(module, "lora_dropout")]
    for index, layer in enumerate(layers):
        by_adapter = cast("torch.nn.ModuleDict", layer.lora_dropout)
        for name, dropout in by_adapter.items():
            if isinstance(dropout, torch.nn.Dropout):
                by_adapter[name] = SeededDropout(index, dropout.p, dropper)
