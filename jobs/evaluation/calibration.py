"""Expected calibration error of answer tokens, from sums that workers can add up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

BINS = 15
"""Of equal width, as in Guo et al. (2017)."""
SUMS = 3 * BINS
"""Of each bin: tokens, their summed probability, and how many were right."""


def token_bins(confidence: torch.Tensor) -> torch.Tensor:
    """The bin of each token by the probability (N,) of the most likely one; bin k holds those above
    k / BINS up to (k + 1) / BINS.
    """
    return (torch.ceil(confidence.double() * BINS).long() - 1).clamp(0, BINS - 1)


def add_tokens(
    sums: torch.Tensor, owners: torch.Tensor, confidence: torch.Tensor, right: torch.Tensor
) -> None:
    """Add tokens to sums (owners, SUMS): whose each is, the probability of the most likely token,
    and whether that was the right one.
    """
    bin_indices = owners * BINS + token_bins(confidence)
    values = torch.stack(
        [torch.ones_like(confidence, dtype=torch.float64), confidence.double(), right.double()], 1
    )
    bin_sums = torch.zeros(len(sums) * BINS, 3, dtype=torch.float64, device=sums.device)
    bin_sums.index_add_(0, bin_indices, values)
    sums += bin_sums.view(len(sums), SUMS)


def calibration_error(sums: Sequence[float]) -> float:
    """The mean gap between probability and share of right tokens, weighted by the bins' tokens."""
    bins = [tuple(sums[start : start + 3]) for start in range(0, SUMS, 3)]
    tokens = sum(count for count, _, _ in bins)
    if not tokens:
        return float("nan")
    return sum(abs(probability - right) for _, probability, right in bins) / tokens
