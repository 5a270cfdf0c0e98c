"""A slot's score on its validation split: loss, and exact match without generating, as jobs/evaluate.tally counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from jobs.evaluate import Tally
from jobs.pack.head import Losses, hits
from jobs.pack.portions import Portion, divide, portion

if TYPE_CHECKING:
    from jobs.pack.engine import Pack


def validate(pack: Pack, number: int) -> Tally:
    """One slot's validation, shared between the workers."""
    _, _, valid = pack.corpus(pack.slots[number].trial)
    parts = portion(number, valid[pack.world.rank :: pack.world.size], share=pack.sharing)
    pack.active.arrange([number])
    while True:
        try:
            sums = torch.zeros(4, dtype=torch.float64, device=pack.device)
            for group in divide(parts, pack.budget if pack.device.type == "cpu" else 4 * pack.budget):  # no gradients to keep
                sums += one_pass(pack, group)
            break
        except (MemoryError, RuntimeError) as error:
            pack.shrink(parts, error)
    loss, tokens, exact, rows = pack.world.add(sums).tolist()
    return Tally(loss, int(tokens), int(exact), int(rows))


def one_pass(pack: Pack, group: list[Portion]) -> torch.Tensor:
    """Sums over one pass: loss, tokens, examples answered exactly, examples; float64 (4,)."""
    layout, logits = pack.run(group)
    _, losses = Losses.apply(logits, layout.targets, layout.weights)  # type: ignore[misc]
    missed = torch.zeros(len(layout.examples), device=pack.device).index_add_(0, layout.answers, (~hits(logits, layout.targets)).float())
    sums = (losses.double().sum(), len(losses), (missed == 0).sum(), len(missed))
    return torch.tensor([float(value) for value in sums], dtype=torch.float64, device=pack.device)
