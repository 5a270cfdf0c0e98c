"""The processes that train one trial together."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class World:
    """This worker's place among the data-parallel workers of a trial."""

    rank: int = 0
    size: int = 1

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the workers, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def gather(self, values: list[tuple[int, str]]) -> dict[int, str]:
        """Numbered texts of all workers together."""
        if self.size == 1:
            return dict(values)
        shares: list[list[tuple[int, str]]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(shares, values)
        return {number: text for share in shares for number, text in share}
