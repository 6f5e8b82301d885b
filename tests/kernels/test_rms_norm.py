"""RMSNorm: the definition against transformers', the native kernel against the definition."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from recrl.kernels.registry import KERNELS, load
from recrl.kernels.rms_norm import reference


@pytest.fixture(scope="module", params=KERNELS["rms_norm"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    obstacle = request.param.obstacle("cpu")
    if obstacle:
        pytest.skip(obstacle)
    return load("rms_norm", request.param.name)


def run(op: ModuleType, x: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output and both gradients."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = op.rms_norm(x, weight, 1e-6)
    return out.detach(), *torch.autograd.grad(out, (x, weight), gradient)


def test_two_rows_by_hand(kernel: ModuleType) -> None:
    # mean squares 12.5 and 0; the row of zeros is divided by the root of eps alone
    out = kernel.rms_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, 10.0]), 1e-6)
    torch.testing.assert_close(out, torch.tensor([[3 / 12.5**0.5, 40 / 12.5**0.5], [0.0, 0.0]]))


def test_it_is_the_norm_of_hugging_face(kernel: ModuleType) -> None:
    torch.manual_seed(0)
    norm = Qwen3RMSNorm(40, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 7, 40) * 3
    torch.testing.assert_close(kernel.rms_norm(x, norm.weight, 1e-5), norm(x), atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 150), width=st.integers(1, 70), seed=st.integers(0, 99), wide=st.booleans())
def test_it_agrees_with_the_definition(kernel: ModuleType, rows: int, width: int, seed: int, wide: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype, tolerance = (torch.float32, 1e-5) if wide else (torch.bfloat16, 2e-2)
    x = torch.randn(rows, width, generator=generator).to(dtype)
    weight = torch.randn(width, generator=generator)
    gradient = torch.randn(rows, width, generator=generator).to(dtype)
    for value, expected in zip(run(kernel, x, weight, gradient), run(reference, x, weight, gradient), strict=True):
        assert value.dtype == expected.dtype
        # A row of one or two entries near zero has a gradient that is a small difference of large numbers.
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(value, expected, atol=tolerance * max(1.0, scale), rtol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 150),
    width=st.integers(1, 70),
    seed=st.integers(0, 99),
    types=st.tuples(*[st.sampled_from([torch.float32, torch.bfloat16])] * 2),
    adds=st.booleans(),
)
def test_a_sum_and_its_norm_agree_with_the_definition(
    kernel: ModuleType, rows: int, width: int, seed: int, types: tuple[torch.dtype, torch.dtype], adds: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(rows, width, generator=generator).to(dtype) for dtype in types[: 1 + adds]]
    inputs.append(torch.randn(width, generator=generator))
    beside, gradient = (torch.randn(rows, width, generator=generator) for _ in range(2))
    found = []
    for op in (kernel, reference):
        leaves = [value.clone().requires_grad_() for value in inputs]
        total, out = op.add_rms_norm(leaves[0], leaves[1] if adds else None, leaves[-1], 1e-6)
        weights = [beside.to(total.dtype), gradient.to(out.dtype)]
        found.append([total, out, *torch.autograd.grad((total, out), leaves, weights)])
        with torch.no_grad():
            again = op.add_rms_norm(leaves[0], leaves[1] if adds else None, leaves[-1], 1e-6)
        assert all(map(torch.equal, again, (total, out)))
    tolerance = 1e-5 if torch.bfloat16 not in types[: 1 + adds] else 3e-2
    for value, expected in zip(*found, strict=True):
        assert value.dtype == expected.dtype
        scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(value, expected, atol=tolerance * max(1.0, scale), rtol=tolerance)


def test_a_sum_that_is_read_alone_gives_its_gradient_on(kernel: ModuleType) -> None:
    x, added = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    total, _ = kernel.add_rms_norm(x, added, torch.ones(3, requires_grad=True), 1e-6)
    for gradient in torch.autograd.grad(total.sum(), (x, added)):
        assert torch.equal(gradient, torch.ones(2, 3))


def test_the_gradient_is_that_of_differences(kernel: ModuleType) -> None:
    torch.manual_seed(0)
    x, weight, gradient = torch.randn(5, 6), torch.randn(6), torch.randn(5, 6)
    _, of_x, of_weight = run(kernel, x, weight, gradient)

    def value(x: Tensor, weight: Tensor) -> Tensor:
        wide = x.double()
        return (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double() * gradient).sum()

    step = 1e-4
    for entry in range(6):
        unit = torch.zeros(6, dtype=torch.float64)
        unit[entry] = step
        row = unit.expand(5, 6) * (torch.arange(5) == 2)[:, None]
        by_x = (value(x + row, weight) - value(x - row, weight)) / (2 * step)
        by_weight = (value(x, weight + unit) - value(x, weight - unit)) / (2 * step)
        assert float(of_x[2, entry]) == pytest.approx(float(by_x), abs=1e-4)
        assert float(of_weight[entry]) == pytest.approx(float(by_weight), abs=1e-4)


def test_a_nan_stays_in_its_row(kernel: ModuleType) -> None:
    x = torch.ones(4, 8, dtype=torch.bfloat16)
    x[2, 3] = float("nan")
    out = kernel.rms_norm(x, torch.ones(8), 1e-6)
    assert out[2].isnan().all()
    assert torch.equal(out[[0, 1, 3]], x[[0, 1, 3]])


def test_a_nan_of_any_bits_is_one_in_half_precision(kernel: ModuleType) -> None:
    weight = torch.ones(4)
    weight.view(torch.int32)[1] = -1  # a NaN whose rounding to 16 bits overflows
    out = kernel.rms_norm(torch.ones(2, 4, dtype=torch.bfloat16), weight, 1e-6)
    assert out.isnan().tolist() == [[False, True, False, False]] * 2


def test_rows_may_lie_anywhere_in_memory(kernel: ModuleType) -> None:
    torch.manual_seed(0)
    x, gradient = torch.randn(6, 9, 4).transpose(1, 2), torch.randn(9, 6, 4).permute(1, 2, 0)
    weight = torch.randn(18)[::2]
    for value, expected in zip(run(kernel, x, weight, gradient), run(reference, x, weight, gradient), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


def test_the_weight_gets_a_gradient_of_its_own_dtype(kernel: ModuleType) -> None:
    weight = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
    kernel.rms_norm(torch.randn(3, 8), weight, 1e-6).sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
