"""How far a runtime's probabilities are from the trained model's, token by token.

The runtime continues a prompt greedily and tells the probabilities of its most likely tokens; the
trained model reads the same tokens. The measure is llama.cpp's: the Kullback-Leibler divergence of
the file's distribution from the model's, and the share of tokens whose most likely one is the same
(or as likely, to TIE nats).
All tokens beyond the runtime's most likely ones count as one, so the divergence is a lower bound
that misses next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jobs.llama_cpp.runtime import Completion, Runtime
from jobs.onnx_genai.runtime import OnnxRuntime

MOST_LIKELY = 256
"""Tokens of each position whose probabilities are compared one by one."""
SMALLEST = 1e-30
TIE = 0.02
"""Nats between two tokens of the trained model that count as equally likely: a model that was
hardly trained has many such, and rounding decides which of them comes first.
"""

Reference = Callable[[Sequence[int]], torch.Tensor]
"""Logits of the trained model at each position of some tokens."""


@dataclass(frozen=True)
class Divergence:
    """Over all tokens that were compared."""

    mean: float
    """Nats per token."""
    largest: float
    equal: float
    """Share of tokens whose most likely one is the same, or ties with it in the trained model."""
    tokens: int

    def __str__(self) -> str:
        return (
            f"mean divergence {self.mean:.2g} nats per token (largest {self.largest:.2g}), "
            f"the most likely token is the same at {self.equal:.1%} of {self.tokens:,}"
        )

    def record(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)


def model_reference(model: Any) -> Reference:
    """A transformers model as a reference."""

    @torch.no_grad()
    def logits(ids: Sequence[int]) -> torch.Tensor:
        device = next(model.parameters()).device
        return model(input_ids=torch.tensor([list(ids)], device=device)).logits[0].float().cpu()

    return logits


def of_prompts(
    runtime: Runtime | OnnxRuntime,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    most: int,
    adapter: int | None = None,
) -> Divergence:
    """The divergence over answers to some prompts, each of at most so many tokens."""
    values: list[float] = []
    equal = 0
    for ids in prompts:
        answered = runtime.told_each(ids, most, adapter, MOST_LIKELY)
        row, same = of_answer(reference, ids, answered)
        values += row
        equal += same
    return summary(values, equal)


def of_answer(
    reference: Reference, ids: Sequence[int], answered: Completion
) -> tuple[list[float], int]:
    """The divergence at each token of an answer that probabilities are told of, and at how many
    the most likely is the same.
    """
    count = len(answered.probabilities)
    if not count:
        return [], 0
    logits = reference([*ids, *answered.ids[: count - 1]])[len(ids) - 1 :]
    expected = torch.log_softmax(logits[:count].double(), -1)
    values, equal = [], 0
    for position, told in zip(expected, answered.probabilities, strict=True):
        if not told:
            continue
        values.append(divergence(position, told))
        most_likely = max(told, key=lambda token: told[token])
        equal += float(position[most_likely]) >= float(position.max()) - TIE
    return values, equal


def divergence(expected: torch.Tensor, told: dict[int, float]) -> float:
    """Of one position, in nats. `expected` are logarithms of probabilities."""
    ids = torch.tensor(list(told))
    logs = torch.tensor([told[int(token)] for token in ids], dtype=torch.float64)
    chances = expected[ids].exp()
    total = float((chances * (expected[ids] - logs)).sum())
    rest = max(1.0 - float(chances.sum()), 0.0)
    rest_told = max(1.0 - float(logs.exp().sum()), SMALLEST)
    if rest > 1e-9 and len(told) < len(expected):
        total += rest * (math.log(max(rest, SMALLEST)) - math.log(rest_told))
    return max(total, 0.0)


def summary(values: Sequence[float], equal: int) -> Divergence:
    """All positions together."""
    count = len(values)
    if not count:
        return Divergence(math.nan, math.nan, math.nan, 0)
    return Divergence(sum(values) / count, max(values), equal / count, count)
