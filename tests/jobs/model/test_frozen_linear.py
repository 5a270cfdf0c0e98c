"""Products with frozen weights in a CPU's own layout: the same numbers as torch's, for rows,
gradients and sums, and only where allowed.
"""

from __future__ import annotations

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from jobs.model import frozen_linear
from jobs.model.frozen_linear import (
    PrepackedLinear,
    drop_prepacked,
    has_kernels,
    prepack_weights,
    times,
)

NEAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def layer(width_in: int, width_out: int, dtype: torch.dtype, bias: bool = True) -> torch.nn.Linear:
    """A frozen linear layer."""
    return torch.nn.Linear(width_in, width_out, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8, 8), (7, 33, 65), (64, 96, 128), (600, 48, 200)])
@pytest.mark.parametrize("bias", [False, True])
def test_products_and_gradients_are_those_of_a_linear_layer(
    dtype: torch.dtype, shape: tuple[int, int, int], bias: bool
) -> None:
    """Forward, backward, and a gradient added to another one; rows in one matrix or in several,
    with gaps or without.
    """
    num_rows, width_in, width_out = shape
    plain, fast = layer(width_in, width_out, dtype, bias), layer(width_in, width_out, dtype, bias)
    fast.load_state_dict(plain.state_dict())
    if not has_kernels(fast.weight):
        pytest.skip("this machine has no such kernels")
    weight = PrepackedLinear(fast)
    weight.fast = True
    rows = torch.randn(2, num_rows, 2 * width_in, dtype=dtype)[:, :, :width_in]
    one, other = rows.clone().requires_grad_(True), rows.detach().requires_grad_(True)
    expected, found = plain(one), times(other, weight)
    torch.testing.assert_close(found, expected, rtol=NEAR[dtype], atol=NEAR[dtype])
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    found.backward(gradient)
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(other.grad, one.grad, rtol=NEAR[dtype], atol=NEAR[dtype])
    flat, onto = gradient.reshape(-1, width_out), torch.randn(2 * num_rows, width_in, dtype=dtype)
    torch.testing.assert_close(
        weight.back(flat, onto.clone()),
        onto + flat @ plain.weight,
        rtol=NEAR[dtype],
        atol=4 * NEAR[dtype],
    )


def test_a_weight_kept_the_other_way_round_is_turned() -> None:
    """GPT-2's layers."""
    turned = Conv1D(24, 16).requires_grad_(False)
    rows, gradient = torch.randn(5, 16), torch.randn(5, 24)
    weight = PrepackedLinear(turned)
    for fast in (False, has_kernels(turned.weight)):
        weight.fast = fast
        torch.testing.assert_close(weight.forth(rows), turned(rows))
        torch.testing.assert_close(weight.back(gradient), gradient @ turned.weight.t())


def test_what_is_trained_or_of_another_kind_stays_as_it_is() -> None:
    """A trained layer, one with a forward of its own, and a format without kernels."""

    class Own(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    own, trained, double = (
        Own(4, 4).requires_grad_(False),
        torch.nn.Linear(4, 4),
        layer(4, 4, torch.float64),
    )
    model = torch.nn.ModuleList([own, trained, double])
    assert not prepack_weights(model, [])
    assert all("forward" not in vars(each) for each in model)
    held = layer(4, 4, torch.float32)
    model.append(held)
    assert prepack_weights(model, []) == has_kernels(held.weight) == ("forward" in vars(held))


def test_copies_that_memory_does_not_allow_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of a weight may take a quarter of what is left."""
    model = torch.nn.ModuleList([layer(16, 16, torch.float32)])
    if not has_kernels(model[0].weight):
        pytest.skip("this machine has no such kernels")
    for factor, made in ((7.9, False), (8.1, True)):
        monkeypatch.setattr(
            frozen_linear, "available_bytes", lambda factor=factor: int(factor * 16 * 16 * 4)
        )
        assert prepack_weights(model, []) is made


def test_when_memory_has_run_out_the_copies_are_given_back_and_the_products_stay() -> None:
    model = torch.nn.ModuleList([layer(16, 24, torch.float32), torch.nn.Linear(4, 4)])
    known = PrepackedLinear(layer(24, 8, torch.float32))
    model.append(torch.nn.ModuleList([known.layer]))
    rows = torch.randn(5, 16)
    expected = (
        model[0](rows),
        torch.nn.functional.linear(model[0](rows), known.layer.weight, known.layer.bias),
    )
    made = prepack_weights(model, [known])
    known.forth(model[0](rows))
    assert (known.ahead is not None) == made == has_kernels(known.layer.weight)
    assert drop_prepacked(model) is made and not drop_prepacked(model)
    assert known.ahead is None and known.behind is None and not known.fast
    assert torch.equal(model[0](rows), expected[0]) and torch.equal(
        known.forth(model[0](rows)), expected[1]
    )
