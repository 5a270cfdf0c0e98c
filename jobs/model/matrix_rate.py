"""Measures how fast this machine multiplies, in each number format that a base can be kept in.

    python -m jobs.model.matrix_rate THREADS

prints one line of JSON and keeps it in the cache. The products are those of a small language
model's layers, by the kernels that a pack uses.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from jobs.machine import speed
from jobs.machine.cores import usable_cores

SHAPES = ((576, 1536), (1536, 576))
"""Inputs and outputs of the products: those of SmolLM2-135M's layers."""
ROWS = 256
"""Rows of a product: small enough to be through before others get this processor."""
FEW_ROWS = 32
"""Rows of a first product, which tells whether a format is computed at all or only imitated."""
SLOW_SECONDS = 0.05
"""A format whose first products take longer is not measured any further."""
WINDOWS = 3
WINDOW_SECONDS = 0.15
"""Each format is measured so often for so long, the formats in turn."""
RANK = 3
"""The rate that counts, from the fastest: what this machine does alone is what is kept, and the
very fastest may be a fault of the clock.
"""
ALONE = 0.85
"""Products during which the threads had this share of their cores count as undisturbed."""


def measure(threads: int) -> dict[str, float]:
    """Floating-point operations per second by number format, with so many threads.

    Where others keep this machine so busy that hardly a product is undisturbed, one thread is
    measured by the processor time that it takes, which waiting does not lengthen, and that times
    the threads is the rate.
    """
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        products = {name: Products(name) for name in speed.FORMATS}
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            for _ in range(WINDOWS):
                for product in products.values():
                    product.run(WINDOW_SECONDS, count)
    finally:
        torch.set_num_threads(before)
    return {name: product.rate(threads) for name, product in products.items()}


class Products:
    """The products of one number format, and how fast they were."""

    def __init__(self, name: str) -> None:
        import torch

        from jobs.model.frozen_linear import PrepackedLinear, has_kernels

        self.weights = []
        for inputs, outputs in SHAPES:
            layer = torch.nn.Linear(inputs, outputs, bias=False, dtype=getattr(torch, name))
            weight = PrepackedLinear(layer.requires_grad_(False))
            weight.fast = has_kernels(layer.weight)
            self.weights.append(weight)
        self.rates: list[float] = []
        """By processor time, of one thread."""
        self.undisturbed: list[float] = []
        """By the clock, of all threads."""
        self.once(FEW_ROWS)  # the layout is made, and the kernel compiled
        _, seconds = self.once(FEW_ROWS)
        self.slow = seconds > SLOW_SECONDS
        self.rates.append(FEW_ROWS * FLOPS_PER_ROW / seconds)
        if not self.slow:
            self.once(ROWS)

    def once(self, rows: int) -> tuple[float, float]:
        """Run each product once; seconds by the clock, and of this process's processor time."""
        import torch

        kind = self.weights[0].matrix.dtype
        batches = [torch.randn(rows, inputs).to(kind) for inputs, _ in SHAPES]
        with torch.inference_mode():
            start = time.perf_counter(), time.process_time()
            for batch, weight in zip(batches, self.weights, strict=True):
                weight.forth(batch)
            end = time.perf_counter(), time.process_time()
        return max(end[0] - start[0], 1e-9), max(end[1] - start[1], 1e-9)

    def run(self, seconds: float, threads: int) -> None:
        """Measure for so long, with so many threads."""
        began = time.perf_counter()
        while not self.slow and time.perf_counter() - began < seconds:
            wall, busy = self.once(ROWS)
            if threads == 1:
                self.rates.append(ROWS * FLOPS_PER_ROW / busy)
            elif busy >= ALONE * threads * wall:
                self.undisturbed.append(ROWS * FLOPS_PER_ROW / wall)

    def rate(self, threads: int) -> float:
        """What counts of all that was measured."""
        if len(self.undisturbed) >= RANK and not self.slow:
            return sorted(self.undisturbed)[-RANK]
        return threads * sorted(self.rates)[-min(RANK, len(self.rates))]


FLOPS_PER_ROW = sum(2.0 * inputs * outputs for inputs, outputs in SHAPES)


def measured_here() -> speed.MachineSpeed:
    """This machine's speed with the threads that torch has here, and cores for: remembered, or
    measured now.
    """
    import torch

    threads = min(torch.get_num_threads(), usable_cores())
    found = speed.remembered(threads)
    if found is None:
        found = speed.MachineSpeed(measure(threads), None, threads)
        speed.keep(found)
    return found


def main(arguments: list[str]) -> None:
    """Measure, keep and print."""
    threads = int(arguments[0])
    began = time.process_time()
    import torch  # noqa: F401  # its import is timed

    imported = time.process_time() - began
    found = speed.MachineSpeed(measure(threads), imported, threads)
    speed.keep(found)
    print(json.dumps({"version": speed.VERSION, **asdict(found)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
