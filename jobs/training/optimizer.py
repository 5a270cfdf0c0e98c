"""AdamW, the schedule of its learning rate, and the limit of steps that are not finite."""

from __future__ import annotations

import math

import torch

from jobs.config import Optim


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`: a linear warm-up, then the schedule."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    if optim.schedule == "warmup_stable_decay":
        return optim.lr * min(1.0, (steps - step) / max(steps * optim.decay_share, 1))
    done = (step - optim.warmup_steps) / max(steps - optim.warmup_steps, 1)
    return optim.lr * (
        1 - done if optim.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    )


def adamw(
    weights: list[torch.nn.Parameter], optim: Optim, fused: bool = False
) -> torch.optim.AdamW:
    """AdamW over `weights`, at the settings' peak rate."""
    return torch.optim.AdamW(
        weights,
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        weight_decay=optim.weight_decay,
        fused=fused,
    )


NON_FINITE_LIMIT = 3
"""A trial fails after so many steps in a row whose loss or gradient is not finite; none of them has
changed its weights.
"""


def not_finite(step: int, optim: Optim) -> str:
    """Why a trial fails at `step`."""
    text = f"loss or gradient is not finite at step {step} and {NON_FINITE_LIMIT - 1} before it"
    return f"{text} (optim.lr={optim.lr}); a smaller optim.lr helps"
