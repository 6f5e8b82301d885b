"""silu(gate) * up: values by hand, the native kernel against the definition, and the ends of float32."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recrl.kernels.registry import KERNELS, load
from recrl.kernels.swiglu import reference


@pytest.fixture(scope="module", params=KERNELS["swiglu"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    obstacle = request.param.obstacle("cpu")
    if obstacle:
        pytest.skip(obstacle)
    return load("swiglu", request.param.name)


def run(op: ModuleType, gate: Tensor, up: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output and both gradients."""
    gate, up = gate.clone().requires_grad_(), up.clone().requires_grad_()
    out = op.swiglu(gate, up)
    return out.detach(), *torch.autograd.grad(out, (gate, up), gradient)


def test_values_and_gradients_by_hand(kernel: ModuleType) -> None:
    share = 1 / (1 + math.exp(-2))
    out, of_gate, of_up = run(kernel, torch.tensor([2.0, 0.0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(out, torch.tensor([2 * share * 3, 0.0]))
    torch.testing.assert_close(of_gate, torch.tensor([3 * share * (1 + 2 * (1 - share)), 2.5]))
    torch.testing.assert_close(of_up, torch.tensor([2 * share, 0.0]))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1.0, 30.0]),
    wide=st.booleans(),
)
def test_it_agrees_with_the_definition(
    kernel: ModuleType, shape: list[int], seed: int, scale: float, wide: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype, tolerance = (torch.float32, 2e-6) if wide else (torch.bfloat16, 1e-2)
    gate, up, gradient = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    gate = gate * scale
    for value, expected in zip(run(kernel, gate, up, gradient), run(reference, gate, up, gradient), strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value, expected, atol=tolerance, rtol=tolerance)


def test_it_is_exact_to_a_millionth_wherever_silu_is_a_normal_number(kernel: ModuleType) -> None:
    gate = torch.linspace(-80, 80, 200_001)
    exact = gate.double() * gate.double().sigmoid()
    value = kernel.swiglu(gate, torch.ones_like(gate)).double()
    assert float(((value - exact) / exact.abs().clamp(min=1e-30)).abs().max()) < 1e-6


def test_large_gates_pass_and_very_negative_ones_close(kernel: ModuleType) -> None:
    gate = torch.tensor([1e4, 3e38, -1e4, -1e20, 200.0, -200.0])
    out, of_gate, of_up = run(kernel, gate, torch.full((6,), 0.5), torch.ones(6))
    closed = gate < 0
    torch.testing.assert_close(out[~closed], gate[~closed] * 0.5)
    torch.testing.assert_close(of_gate[~closed], torch.full((3,), 0.5))
    torch.testing.assert_close(of_up[~closed], gate[~closed])
    assert (out[closed] <= 0).all()
    assert out[closed].abs().max() < 1e-17  # at most gate / exp(87): smaller values are below what float32 can say
    assert of_gate[closed].abs().max() < 1e-17


def test_a_nan_stays_where_it_is(kernel: ModuleType) -> None:
    nan = float("nan")
    out, of_gate, of_up = run(kernel, torch.tensor([1.0, nan, 1.0]), torch.tensor([1.0, 1.0, nan]), torch.ones(3))
    assert out.isnan().tolist() == [False, True, True]
    assert of_gate.isnan().tolist() == [False, True, True]
    assert of_up.isnan().tolist() == [False, True, False]


def test_memory_that_may_be_reused_changes_no_value(kernel: ModuleType) -> None:
    torch.manual_seed(0)
    for gate, up in ((torch.randn(70, 33), torch.randn(70, 33)), (torch.randn(9, 6).t(), torch.randn(6, 9))):
        for dtype in (torch.float32, torch.bfloat16):
            first, second = gate.to(dtype), up.to(dtype)
            expected = kernel.swiglu(first.clone(), second)
            assert torch.equal(kernel.swiglu(first.clone().requires_grad_(), second, True), expected)
            with torch.no_grad():
                assert torch.equal(kernel.swiglu(first, second, True), expected)


def test_operands_may_lie_differently_in_memory(kernel: ModuleType) -> None:
    torch.manual_seed(0)
    gate, up, gradient = torch.randn(6, 9).t(), torch.randn(9, 12)[:, ::2], torch.randn(6, 9).t()
    for value, expected in zip(run(kernel, gate, up, gradient), run(reference, gate, up, gradient), strict=True):
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=2e-6)
