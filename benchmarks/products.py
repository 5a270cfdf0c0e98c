"""How fast this machine multiplies matrices of a step's sizes."""

from __future__ import annotations

import time

import torch

from jobs.model.frozen_linear import PrepackedLinear, has_kernels


def peak_rate(dtype: torch.dtype, device: torch.device) -> float | None:
    """FLOP per second of a large product on a GPU; None on a CPU, which reaches its rate at the
    sizes of a step.
    """
    if device.type == "cpu":
        return None
    one, other = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        synchronize(device)
        began = time.perf_counter()
        torch.mm(one, other)
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * 8192**3 / min(times)


def product_seconds(
    rows: int, width_in: int, width_out: int, dtype: torch.dtype, device: torch.device
) -> tuple[float, float]:
    """Seconds of one layer's forward product and of the backward one towards its input; the best of
    three each, with the weight as torch keeps it and, where this machine has kernels for it, laid
    out as those read it.
    """
    layer = torch.nn.Linear(
        width_in, width_out, bias=False, device=device, dtype=dtype
    ).requires_grad_(False)
    x, out, times = (
        torch.randn(rows, width_in, device=device, dtype=dtype),
        torch.randn(rows, width_out, device=device, dtype=dtype),
        [],
    )
    for fast in [False, *[True] * has_kernels(layer.weight)]:
        weight = PrepackedLinear(layer)
        weight.fast = fast
        weight.forth(x)
        weight.back(out)
        for _ in range(3):
            began = time.perf_counter()
            weight.forth(x)
            middle = time.perf_counter()
            weight.back(out)
            times.append((middle - began, time.perf_counter() - middle))
    return min(first for first, _ in times), min(second for _, second in times)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize()
