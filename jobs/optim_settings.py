"""The settings of the optimizer."""

from __future__ import annotations

from typing import Literal

from jobs.settings_checks import config, require


@config
class Optim:
    """AdamW (Loshchilov and Hutter, 2019) and its learning-rate schedule."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    max_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear", "cosine", "warmup_stable_decay"] = "constant"
    """After the warm-up. Anything but constant ties a trial's result to train.steps; while its rate
    falls it is no match for others.
    """
    decay_share: float = 0.2
    """The last share of train.steps, in which warmup_stable_decay (Hu et al., 2024) lets the rate
    fall linearly to 0.
    """

    def __post_init__(self) -> None:
        require(
            (0 < self.lr < 1e3, f"optim.lr must be above 0 and below 1000, got {self.lr}"),
            (
                0 <= self.weight_decay < 1e3,
                f"optim.weight_decay must be at least 0 and below 1000, got {self.weight_decay}",
            ),
            (0 <= self.beta1 < 1, f"optim.beta1 must be at least 0 and below 1, got {self.beta1}"),
            (0 <= self.beta2 < 1, f"optim.beta2 must be at least 0 and below 1, got {self.beta2}"),
            (self.max_norm > 0, f"optim.max_norm must be above 0, got {self.max_norm}"),
            (
                0 < self.decay_share <= 1,
                f"optim.decay_share must be above 0 and at most 1, got {self.decay_share}",
            ),
            (
                self.warmup_steps >= 0,
                f"optim.warmup_steps must be at least 0, got {self.warmup_steps}",
            ),
        )
