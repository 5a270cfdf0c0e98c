"""Which tokens of a file count as the trained model's: the same, or as likely there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.export.divergence import of_answer


@pytest.mark.parametrize(("apart", "equal"), [(0.0, 1), (0.01, 1), (0.05, 0), (1.0, 0)])
def test_a_token_that_is_as_likely_counts_as_the_same_and_no_other(
    apart: float, equal: int
) -> None:
    logits = torch.tensor([[[2.0, 2.0 - apart, -3.0, -3.0]]])[0]
    told = torch.log_softmax(torch.tensor([2.0 - apart, 2.0, -3.0, -3.0]), -1).tolist()
    answered: Any = SimpleNamespace(probabilities=[dict(enumerate(told))], ids=[1])
    values, same = of_answer(lambda ids: logits, [0], answered)
    assert same == equal, "its most likely token is the model's second one"
    assert values[0] >= 0
