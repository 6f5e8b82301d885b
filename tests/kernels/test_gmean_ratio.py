"""Geometric-mean ratios: worked numbers, what is not read, every implementation against the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recrl.kernels.gmean_ratio import reference
from recrl.kernels.registry import KERNELS, Kernel, load

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module", params=KERNELS["gmean_ratio"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest, loaded: Callable[[str, Kernel], ModuleType]) -> ModuleType:
    return loaded("gmean_ratio", request.param)


def run(op: ModuleType, logp: Tensor, logp_old: Tensor, mask: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The ratios and the gradient of ``logp``."""
    logp = logp.clone().requires_grad_()
    ratio = op.gmean_ratio(logp, logp_old, mask)
    return ratio.detach(), *torch.autograd.grad(ratio, logp, upstream)


def test_two_responses_by_hand(kernel: ModuleType) -> None:
    # ratios 2 and 8 have the geometric mean 4, and d 4 / d logp = 4 / 2 a token; a lone ratio of 1/2 is its own mean
    old = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -1.0, -1.0]])
    logp = old + torch.tensor([[math.log(2), math.log(8), 5.0], [math.log(0.5), 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    ratio, gradient = run(kernel, logp, old, mask, torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(ratio, torch.tensor([4.0, 0.5]))
    torch.testing.assert_close(gradient, torch.tensor([[2.0, 2.0, 0.0], [-1.5, 0.0, 0.0]]))


def test_the_ratio_of_the_worked_slate(kernel: ModuleType, worked: dict[str, Any]) -> None:
    delta = torch.tensor([worked["A1_delta"]])
    ratio = kernel.gmean_ratio(delta, torch.zeros_like(delta), torch.ones_like(delta, dtype=torch.bool))
    assert float(ratio) == pytest.approx(worked["A1_r_token"], abs=1e-6)


def test_a_response_without_tokens_has_ratio_one_and_no_gradient(kernel: ModuleType) -> None:
    mask = torch.tensor([[False, False], [True, True]])
    ratio, gradient = run(kernel, torch.full((2, 2), -1.0), torch.full((2, 2), -2.0), mask, torch.ones(2))
    torch.testing.assert_close(ratio, torch.tensor([1.0, math.e]))
    assert gradient[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("other", [float("-inf"), float("nan")])
def test_what_is_outside_the_mask_is_not_read(kernel: ModuleType, other: float) -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    logp, old = torch.full((2, 3), other), torch.full((2, 3), other)
    logp[0, [0, 2]], old[0, [0, 2]] = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])
    ratio, gradient = run(kernel, logp, old, mask, torch.ones(2))
    assert ratio.tolist() == [1.0, 1.0]
    assert gradient.tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]


@settings(max_examples=20, deadline=None)
@given(
    responses=st.integers(0, 9),
    tokens=st.sampled_from([0, 1, 5, 40, 256, 300]),
    kept=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    seed=st.integers(0, 99),
)
def test_it_agrees_with_the_definition(
    kernel: ModuleType,
    responses: int,
    tokens: int,
    kept: float,
    dtypes: tuple[torch.dtype, torch.dtype],
    seed: int,
) -> None:
    source = torch.Generator().manual_seed(seed)
    shape = (responses, tokens)
    logp, old = (-torch.rand(shape, generator=source).mul(3).to(dtype) for dtype in dtypes)
    mask = torch.rand(shape, generator=source) < kept
    upstream = torch.randn(responses, generator=source)
    logp, old = (values.masked_fill(~mask, float("-inf")) for values in (logp, old))
    given_out = run(kernel, logp, old, mask, upstream)
    for value, expected in zip(given_out, run(reference, logp, old, mask, upstream), strict=True):
        assert value.dtype == expected.dtype
        tolerance = 1e-5 if value.dtype == torch.float32 else 1e-2  # the gradient of a bf16 input is rounded
        torch.testing.assert_close(value, expected, atol=tolerance, rtol=tolerance)


def test_thousands_of_tokens_agree_with_the_definition(kernel: ModuleType) -> None:
    source = torch.Generator().manual_seed(0)
    logp, old = (-torch.rand(3, 4097, generator=source) for _ in range(2))
    mask = torch.rand(3, 4097, generator=source) < 0.8
    arguments = (logp, old, mask, torch.ones(3))
    for value, expected in zip(run(kernel, *arguments), run(reference, *arguments), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-5)


def test_inputs_may_lie_anywhere_in_memory(kernel: ModuleType) -> None:
    source = torch.Generator().manual_seed(0)
    logp, old = -torch.rand(6, 4, generator=source).t(), -torch.rand(4, 12, generator=source)[:, ::2]
    mask = (torch.rand(6, 4, generator=source) < 0.6).t()
    upstream = torch.ones(1).expand(4)
    for value, expected in zip(
        run(kernel, logp, old, mask, upstream), run(reference, logp, old, mask, upstream), strict=True
    ):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)


def test_only_the_new_log_probabilities_carry_a_gradient(kernel: ModuleType) -> None:
    logp, old = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3)
    kernel.gmean_ratio(logp, old, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, torch.full((2, 3), 1 / 3))
    assert not kernel.gmean_ratio(logp.detach(), old, torch.ones(2, 3, dtype=torch.bool)).requires_grad


def test_on_ascend_several_launches_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    op = load("gmean_ratio", "ascend")
    monkeypatch.setattr(op, "MOST_RESPONSES", 2)
    source = torch.Generator().manual_seed(0)
    logp, old = (-torch.rand(5, 7, generator=source) for _ in range(2))
    arguments = (logp, old, torch.rand(5, 7, generator=source) < 0.6, torch.randn(5, generator=source))
    for value, expected in zip(run(op, *arguments), run(reference, *arguments), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
