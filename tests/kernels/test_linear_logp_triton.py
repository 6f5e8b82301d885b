"""The Triton kernels of linear_logp against the reference, in Triton's interpreter.

Letters: T tokens, H hidden size, V vocabulary, C legal continuations.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recrl.errors import UserError
from recrl.kernels.linear_logp import reference
from recrl.kernels.registry import load

pytest.importorskip("triton")
host = load("linear_logp", "triton_host")
kernel = load("linear_logp", "triton_gpu")

SIZES = settings(max_examples=15, deadline=None)


def inputs(tokens: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Hidden states and an output matrix with logits of standard deviation 1, and targets."""
    source = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=source).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=source) * width**-0.5).to(dtype).requires_grad_()
    return [hidden, weight, torch.randint(vocabulary, (tokens,), generator=source)]


def with_legal(tokens: int, vocabulary: int, width: int, legal: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """The same, and legal continuations: no two alike, some absent, the target among the others."""
    hidden, weight, _ = inputs(tokens, vocabulary, width, dtype, seed)
    source = torch.Generator().manual_seed(seed)
    option = torch.rand(tokens, vocabulary, generator=source).argsort(1)[:, :legal]
    exists = torch.rand(tokens, legal, generator=source) < 0.5
    chosen = torch.randint(legal, (tokens, 1), generator=source)
    exists.scatter_(1, chosen, True)
    target = option.gather(1, chosen).squeeze(1)
    return [hidden, weight, target, option.masked_fill(~exists, 0), exists]


def outcome(function: Any, hidden: Tensor, weight: Tensor, *others: Tensor) -> list[Tensor]:
    """Log-probabilities, entropies, and the gradients to ``hidden`` and ``weight`` of a weighted sum."""
    logp, entropy = function(hidden, weight, *others)
    assert logp.dtype == entropy.dtype == torch.float32
    assert not entropy.requires_grad
    slope = torch.linspace(-1, 2, len(logp))
    return [logp, entropy, *torch.autograd.grad(logp @ slope, (hidden, weight))]


def agree(found: list[Tensor], wanted: list[Tensor], tolerances: tuple[float, ...]) -> None:
    """Every error is within its tolerance of the largest entry (0.1 at least: a gradient may vanish)."""
    for one, other, tolerance in zip(found, wanted, tolerances, strict=True):
        scale = max(0.1, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=tolerance * scale)


EXACT = (1e-5,) * 4
ROUNDED = (1e-5, 1e-5, 1e-2, 1e-2)
"""In bf16 the products are exact in float32 and so are our sums; dlogits and the results are rounded to 8 bits."""
BOTH_ROUNDED = (1e-5, 1e-5, 2e-2, 2e-2)
"""Two last places of 8 bits: the reference rounds as well, and Triton's interpreter cuts off where a GPU rounds."""


def exactly(arguments: list[Tensor]) -> list[Tensor]:
    """The same numbers in float32."""
    hidden, weight, *others = arguments
    return [hidden.detach().float().requires_grad_(), weight.detach().float().requires_grad_(), *others]


@SIZES
@given(st.integers(0, 150), st.integers(1, 400), st.integers(1, 130), st.integers(0, 99))
def test_values_and_gradients_agree_with_the_reference(tokens: int, vocabulary: int, width: int, seed: int) -> None:
    arguments = inputs(tokens, vocabulary, width, seed=seed)
    agree(outcome(kernel.linear_logp, *arguments), outcome(reference.linear_logp, *arguments), EXACT)


@SIZES
@given(st.integers(1, 150), st.integers(1, 400), st.integers(1, 130), st.integers(0, 99))
def test_bf16_inputs_are_summed_in_float32(tokens: int, vocabulary: int, width: int, seed: int) -> None:
    arguments = inputs(tokens, vocabulary, width, torch.bfloat16, seed)
    found, wanted = outcome(kernel.linear_logp, *arguments), outcome(reference.linear_logp, *exactly(arguments))
    agree(found, wanted, ROUNDED)
    assert found[2].dtype == found[3].dtype == torch.bfloat16


@pytest.mark.parametrize("programs", [1, 4], ids=["one split", "several blocks a split"])
@pytest.mark.parametrize("workspace", [1, 20 * 300], ids=["a block at a time", "two blocks at a time"])
def test_splits_and_parts_of_the_vocabulary_change_nothing(
    monkeypatch: pytest.MonkeyPatch, programs: int, workspace: int
) -> None:
    monkeypatch.setattr(kernel, "PROGRAMS", programs)
    monkeypatch.setattr(host, "WORKSPACE", workspace)
    arguments = inputs(20, 1_500, 40)
    agree(outcome(kernel.linear_logp, *arguments), outcome(reference.linear_logp, *arguments), EXACT)


def test_the_workspace_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, target = (tensor.detach() for tensor in inputs(20, 1_500, 64))
    monkeypatch.setattr(host, "WORKSPACE", 20 * 300)
    zeros = torch.zeros(20)
    parts = [
        (begin, end, dlogits.numel())
        for begin, end, dlogits in host.dlogits_in_parts(kernel._kernels("fp32"), hidden, weight, target, zeros, zeros)
    ]
    assert [(begin, end) for begin, end, _ in parts] == [
        (first, min(first + 256, 1_500)) for first in range(0, 1_500, 256)
    ]
    assert max(size for *_, size in parts) <= 20 * 300


def test_large_logits_keep_their_entropy() -> None:
    hidden, weight, target = inputs(9, 300, 20)
    large = (hidden.detach() * 300).requires_grad_()
    found, wanted = (
        kernel.linear_logp(large, weight, target),
        reference.linear_logp(large.double(), weight.double(), target),
    )
    torch.testing.assert_close(found[0].double(), wanted[0].double(), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found[1].double(), wanted[1].double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", [-100, -1, 300, 383], ids=str)
def test_a_target_outside_of_the_vocabulary_gives_minus_infinity(target: int) -> None:
    hidden, weight, _ = inputs(1, 300, 20)
    assert kernel.linear_logp(hidden, weight, torch.tensor([target]))[0].item() == float("-inf")


def test_a_frozen_matrix_gets_no_gradient() -> None:
    hidden, weight, target = inputs(5, 200, 20)
    wanted = outcome(reference.linear_logp, hidden, weight, target)[2]
    logp, _ = kernel.linear_logp(hidden, weight.detach(), target)
    (logp @ torch.linspace(-1, 2, 5)).backward()
    agree([hidden.grad], [wanted], (1e-5,))


@pytest.mark.parametrize("legal", [False, True], ids=["linear_logp", "legal_logp"])
def test_autocast_computes_in_its_type_and_gives_gradients_in_the_parameters(legal: bool) -> None:
    name = "legal_logp" if legal else "linear_logp"
    arguments = with_legal(9, 300, 20, 50, torch.float32, 0) if legal else inputs(9, 300, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(getattr(kernel, name), *arguments)
    assert found[2].dtype == found[3].dtype == torch.float32
    wanted = outcome(getattr(reference, name), *arguments)
    agree(found, wanted, (1e-2,) * 4)
    assert not torch.allclose(found[0], wanted[0], rtol=1e-6, atol=1e-6)  # it did round


def test_inputs_of_two_types_are_refused() -> None:
    hidden, weight, target = inputs(3, 10, 8)
    with pytest.raises(UserError, match=r"torch\.bfloat16, torch\.float32"):
        kernel.linear_logp(hidden.bfloat16(), weight, target)


@SIZES
@given(st.integers(0, 40), st.integers(1, 300), st.integers(1, 130), st.integers(1, 300), st.integers(0, 99))
def test_legal_values_and_gradients_agree_with_the_reference(
    tokens: int, vocabulary: int, width: int, legal: int, seed: int
) -> None:
    arguments = with_legal(tokens, vocabulary, width, min(legal, vocabulary), torch.float32, seed)
    agree(outcome(kernel.legal_logp, *arguments), outcome(reference.legal_logp, *arguments), EXACT)


@SIZES
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
@example(14, 14, 14, 0)  # two last places apart
def test_legal_gradients_agree_in_bf16(tokens: int, vocabulary: int, legal: int, seed: int) -> None:
    arguments = with_legal(tokens, vocabulary, 30, min(legal, vocabulary), torch.bfloat16, seed)
    found, wanted = outcome(kernel.legal_logp, *arguments), outcome(reference.legal_logp, *arguments)
    agree(found, wanted, BOTH_ROUNDED)  # the logits alike, by the same matmul
    assert found[2].dtype == found[3].dtype == torch.bfloat16


def test_a_bias_on_legal_words_agrees_with_the_reference() -> None:
    arguments = with_legal(9, 90, 30, 40, torch.float32, 3)
    bias = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    agree(outcome(kernel.legal_logp, *arguments, bias), outcome(reference.legal_logp, *arguments, bias), EXACT)


def test_legal_tensors_may_be_views() -> None:
    hidden, weight, target, legal, exists = with_legal(20, 90, 30, 70, torch.float32, 3)
    views = (hidden, weight, target, legal.t().contiguous().t(), exists.t().contiguous().t())
    wanted = outcome(reference.legal_logp, hidden, weight, target, legal, exists)
    agree(outcome(kernel.legal_logp, *views), wanted, EXACT)
