"""Head norm and rotary positions: the definition against transformers', the native kernel against the definition."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from recrl.kernels.norm_rotary import reference
from recrl.kernels.registry import KERNELS, load


@pytest.fixture(scope="module", params=KERNELS["norm_rotary"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    obstacle = request.param.obstacle("cpu")
    if obstacle:
        pytest.skip(obstacle)
    return load("norm_rotary", request.param.name)


def run(
    op: ModuleType, x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    """The output and the gradients of x and, if there is one, the weight."""
    x = x.detach().requires_grad_()
    wanted = [x]
    if weight is not None:
        weight = weight.detach().requires_grad_()
        wanted.append(weight)
    out = op.norm_rotary(x, weight, cos, sin, 1e-6)
    return out.detach(), *torch.autograd.grad(out, wanted, gradient)


def angles(batch: int, tokens: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cosines and sines of which no two are alike: not even a head's halves, which are equal in the models."""
    angle = torch.rand(batch, tokens, size, generator=generator) * 6
    return angle.cos(), angle.sin()


def test_a_quarter_turn_by_hand(kernel: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    cos = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]])  # the first pair (1, 3) turns by 90 degrees, the second stands still
    sin = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    plain = kernel.norm_rotary(x, None, cos, sin, 1e-6)
    torch.testing.assert_close(plain.flatten(), torch.tensor([-3.0, 2.0, 1.0, 4.0]))
    weight = torch.tensor([1.0, 1.0, 2.0, 1.0])
    normed = kernel.norm_rotary(x, weight, cos, sin, 0.0)
    torch.testing.assert_close(normed.flatten(), torch.tensor([-6.0, 2.0, 1.0, 4.0]) / math.sqrt(30 / 4))


def test_it_is_the_norm_and_the_turn_of_hugging_face(kernel: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = Qwen3RMSNorm(8, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 5, 3, 8, generator=generator)
    cos, sin = angles(2, 5, 8, generator)
    heads = norm(x).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
    value = kernel.norm_rotary(x, norm.weight, cos, sin, 1e-5)
    torch.testing.assert_close(value.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)
    assert value.is_contiguous()


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(0, 80),
    heads=st.integers(1, 5),
    half=st.integers(1, 20),
    seed=st.integers(0, 99),
    normed=st.booleans(),
    shared=st.booleans(),
    wide=st.booleans(),
)
def test_it_agrees_with_the_definition(
    kernel: ModuleType,
    batch: int,
    tokens: int,
    heads: int,
    half: int,
    seed: int,
    normed: bool,
    shared: bool,
    wide: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype, tolerance = (torch.float32, 1e-5) if wide else (torch.bfloat16, 2e-2)
    x, gradient = (torch.randn(batch, tokens, heads, 2 * half, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(2 * half, generator=generator) if normed else None
    turn = angles(1 if shared else batch, tokens, 2 * half, generator)
    values = run(kernel, x, weight, *turn, gradient)
    for value, expected in zip(values, run(reference, x, weight, *turn, gradient), strict=True):
        assert value.dtype == expected.dtype
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(value, expected, atol=tolerance * max(1.0, scale), rtol=tolerance)


def test_angles_of_half_precision_turn_as_well(kernel: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(2, 5, 3, 8, generator=generator, dtype=torch.bfloat16) for _ in range(2))
    cos, sin = (angle.bfloat16() for angle in angles(2, 5, 8, generator))
    weight = torch.randn(8, generator=generator).bfloat16()
    values = run(kernel, x, weight, cos, sin, gradient)
    for value, expected in zip(values, run(reference, x, weight, cos, sin, gradient), strict=True):
        torch.testing.assert_close(value, expected, atol=5e-2, rtol=2e-2)


def test_half_precision_rounds_to_the_nearest_and_ties_to_even(kernel: ModuleType) -> None:
    x = torch.ones(1, 256, 1, 2, dtype=torch.bfloat16)
    cos = (1 + torch.arange(256) / 1024).view(1, 256, 1).expand(1, 256, 2)  # bfloat16 has steps of 1 / 128 there
    out = kernel.norm_rotary(x, None, cos, torch.zeros_like(cos), 1e-6)
    assert torch.equal(out[:, :, 0], cos.bfloat16())


def test_heads_may_lie_anywhere_in_memory(kernel: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 9, 8, generator=generator)[:, :, 3:6]  # keys cut out of a joint projection
    gradient = torch.randn(2, 3, 5, 8, generator=generator).transpose(1, 2)  # as attention's backward leaves it
    weight = torch.randn(8, generator=generator)
    cos, sin = angles(2, 5, 8, generator)
    for one in (gradient, gradient.transpose(2, 3).contiguous().transpose(2, 3)):  # the last: entries apart
        values = run(kernel, x, weight, cos, sin, one)
        for value, expected in zip(values, run(reference, x, weight, cos, sin, one), strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


def test_the_turn_keeps_lengths_and_its_gradient_turns_back(kernel: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 2, 10, generator=generator)
    angle = torch.rand(1, 6, 5, generator=generator).repeat(1, 1, 2) * 6
    out, back = run(kernel, x, None, angle.cos(), angle.sin(), x)
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    again = kernel.norm_rotary(back, None, angle.cos(), angle.sin(), 1e-6)
    torch.testing.assert_close(again, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [True, False])
def test_memory_that_may_be_reused_changes_no_value(kernel: ModuleType, normed: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    angle, weight = torch.rand(2, 70, 12) * 6, torch.randn(12) if normed else None
    for x in (torch.randn(2, 70, 3, 12), torch.randn(2, 3, 70, 12).transpose(1, 2)):
        heads = x.to(dtype)
        expected = kernel.norm_rotary(heads.clone(), weight, angle.cos(), angle.sin(), 1e-6)
        with torch.no_grad():
            assert torch.equal(kernel.norm_rotary(heads, weight, angle.cos(), angle.sin(), 1e-6, True), expected)
