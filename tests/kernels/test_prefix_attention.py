"""Two-part attention: cases by hand, stock attention over copied prompts, every implementation against the definition.

Letters as in the reference: B prompts, G responses, Q new and K own tokens, P prompt tokens, H and J heads of size D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from recrl.errors import UserError
from recrl.kernels.prefix_attention import reference
from recrl.kernels.registry import KERNELS, Kernel, load

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module", params=KERNELS["prefix_attention"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest, loaded: Callable[[str, Kernel], ModuleType]) -> ModuleType:
    return loaded("prefix_attention", request.param)


@pytest.fixture(scope="module", params=["triton_gpu", "ascend"])
def by_triton(request: pytest.FixtureRequest) -> ModuleType:
    pytest.importorskip("triton")
    return load("prefix_attention", request.param)


@dataclass(frozen=True)
class Shape:
    prompts: int = 2
    key_heads: int = 1
    shared: int = 2
    """H / J."""
    group: int = 3
    new: int = 2
    own: int = 2
    width: int = 5
    size: int = 16

    def inputs(self, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
        """Query, prompt's key and value, own key and value, of standard normal entries."""
        source = torch.Generator().manual_seed(seed)
        query = (self.prompts, self.key_heads * self.shared, self.group, self.new, self.size)
        prompt = (self.prompts, self.key_heads, self.width, self.size)
        own = (self.prompts, self.key_heads, self.group, self.own, self.size)
        return [torch.randn(shape, generator=source).to(dtype) for shape in (query, prompt, prompt, own, own)]

    def lengths(self, seed: int = 0) -> Tensor:
        return torch.randint(self.width + 1, (self.prompts,), generator=torch.Generator().manual_seed(seed))


def attend(op: ModuleType, inputs: list[Tensor], length: Tensor, scaling: float = 0.3) -> Tensor:
    query, prompt_key, prompt_value, own_key, own_value = inputs
    out: Tensor = op.prefix_attention(query, prompt_key, prompt_value, length, own_key, own_value, scaling=scaling)
    return out


def with_gradients(op: ModuleType, inputs: list[Tensor], length: Tensor) -> list[Tensor]:
    """The result, and the gradients of all five inputs under a random upstream one."""
    leaves = [states.detach().requires_grad_() for states in inputs]
    out = attend(op, leaves, length)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        assert value.shape == wanted.shape
        # A kernel rounds its weights and slopes to bf16 as well, and Triton's interpreter cuts where a GPU rounds.
        tolerance = 1e-5 if wanted.dtype == torch.float32 else 5e-2
        scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
        torch.testing.assert_close(value, wanted, atol=tolerance * scale, rtol=tolerance)


def test_equal_scores_give_the_mean_of_what_is_seen(kernel: ModuleType) -> None:
    # Two of three prompt tokens are real (values 1 and 3); of the own values 8 and 100 the first query sees one.
    prompt_value = torch.tensor([1.0, 3.0, 1000.0]).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    own_value = torch.tensor([8.0, 100.0]).view(1, 1, 1, 2, 1).expand(1, 1, 1, 2, 4)
    inputs = [torch.ones(1, 1, 1, 2, 4), torch.zeros(1, 1, 3, 4), prompt_value, torch.zeros(1, 1, 1, 2, 4), own_value]
    out = attend(kernel, inputs, torch.tensor([2]))
    torch.testing.assert_close(out[0, 0, 0, :, 0], torch.tensor([12 / 3, 112 / 4]))


def test_the_scaled_product_weighs(kernel: ModuleType) -> None:
    # scores 2 * ln 3 / 2 = ln 3 on the prompt's token and 0 on the own one: weights 3/4 and 1/4
    query = torch.tensor([2.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 1, 4)
    prompt_key = torch.tensor([math.log(3), 5.0, 5.0, 5.0]).view(1, 1, 1, 4)
    prompt_value, own_value = torch.full((1, 1, 1, 4), 4.0), torch.full((1, 1, 1, 1, 4), 8.0)
    inputs = [query, prompt_key, prompt_value, torch.zeros(1, 1, 1, 1, 4), own_value]
    out = attend(kernel, inputs, torch.tensor([1]), scaling=0.5)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 1, 4), 5.0))


def test_it_is_stock_attention_over_rows_that_copy_the_prompt(kernel: ModuleType) -> None:
    shape = Shape(prompts=3, key_heads=2, group=2, new=2, own=3)
    inputs, length = shape.inputs(torch.float32), torch.tensor([5, 2, 0])
    out = attend(kernel, inputs, length)
    query, prompt_key, prompt_value, own_key, own_value = inputs
    for prompt, tokens in enumerate(length.tolist()):
        for response in range(shape.group):
            key, value = (
                torch.cat([part[prompt, :, :tokens], own[prompt, :, response]], 1).repeat_interleave(shape.shared, 0)
                for part, own in ((prompt_key, own_key), (prompt_value, own_value))
            )
            seen = torch.ones(shape.new, tokens + shape.own, dtype=torch.bool).tril(tokens + shape.own - shape.new)
            expected = functional.scaled_dot_product_attention(
                query[prompt, :, response], key, value, attn_mask=seen, scale=0.3
            )
            torch.testing.assert_close(out[prompt, :, response], expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(
    shape=st.builds(
        Shape,
        prompts=st.integers(0, 2),
        key_heads=st.integers(1, 2),
        shared=st.integers(1, 3),
        group=st.integers(0, 3),
        new=st.integers(1, 3),
        own=st.integers(3, 6),
        width=st.integers(0, 7),
        size=st.sampled_from([8, 16, 20, 48]),
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_it_agrees_with_the_definition(kernel: ModuleType, shape: Shape, dtype: torch.dtype, seed: int) -> None:
    inputs, length = shape.inputs(dtype, seed), shape.lengths(seed)
    assert_alike(with_gradients(kernel, inputs, length), with_gradients(reference, inputs, length))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(prompts=1, group=12, new=3, own=3, width=70), id="an-update"),
        pytest.param(Shape(prompts=1, group=23, new=1, own=4, width=66), id="an-extension"),
        pytest.param(Shape(prompts=1, shared=1, group=1, new=67, own=70, width=1), id="long-responses"),
        pytest.param(Shape(prompts=1, shared=1, group=1, size=128), id="wide-heads"),
    ],
)
def test_several_tiles_agree_with_the_definition(kernel: ModuleType, shape: Shape, dtype: torch.dtype) -> None:
    inputs, length = shape.inputs(dtype), torch.tensor([shape.width])
    assert_alike(with_gradients(kernel, inputs, length), with_gradients(reference, inputs, length))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_padding_changes_nothing_and_gets_no_gradient(kernel: ModuleType, dtype: torch.dtype) -> None:
    inputs, length = Shape().inputs(dtype), torch.tensor([4, 0])
    found = with_gradients(kernel, inputs, length)
    for states in inputs[1:3]:
        states[0, :, 4:] = 77.0
        states[1] = -77.0
    again = with_gradients(kernel, inputs, length)
    for value, other in zip(found, again, strict=True):
        assert value.isfinite().all()
        assert torch.equal(value, other)
    for gradient in found[2:4]:
        assert not gradient[0, :, 4:].any()
        assert not gradient[1].any()
        assert gradient[0, :, :4].all()


def test_without_a_prompt_the_first_token_sees_itself_alone(kernel: ModuleType) -> None:
    inputs = Shape(shared=1).inputs(torch.float32)
    out = attend(kernel, inputs, torch.tensor([0, 0]))
    torch.testing.assert_close(out[:, :, :, 0], inputs[4][:, :, :, 0])


def test_no_response_sees_another(kernel: ModuleType) -> None:
    inputs, length = Shape().inputs(torch.float32), torch.tensor([5, 3])
    before = attend(kernel, inputs, length)
    for states in inputs[3:]:
        states[:, :, 1] += 1.0
    after = attend(kernel, inputs, length)
    assert torch.equal(before[:, :, [0, 2]], after[:, :, [0, 2]])
    assert (before[:, :, 1] != after[:, :, 1]).any()


def test_inputs_may_lie_anywhere_in_memory(kernel: ModuleType) -> None:
    shape = Shape(key_heads=2)
    inputs, length = shape.inputs(torch.float32), torch.tensor([5, 3])
    expected = with_gradients(reference, inputs, length)
    # [B, tokens, heads, D], as projections leave them
    moved = [states.movedim(1, -2).contiguous().movedim(-2, 1) for states in inputs]
    assert_alike(with_gradients(kernel, moved, length), expected)
    moved = [states.transpose(-1, -2).contiguous().transpose(-1, -2) for states in inputs]
    assert_alike(with_gradients(kernel, moved, length), expected)


def test_in_triton_autocast_decides_the_type_of_products(by_triton: ModuleType) -> None:
    inputs, length = Shape().inputs(torch.float32), torch.tensor([5, 3])
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(by_triton, inputs, length)
    expected = attend(by_triton, [states.bfloat16() for states in inputs], length)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected.float())


def test_in_triton_the_user_is_told_what_has_no_kernel(by_triton: ModuleType) -> None:
    with pytest.raises(UserError, match=rf"{by_triton.__name__.rpartition('.')[2]}. was given heads of 256"):
        attend(by_triton, Shape(size=256).inputs(torch.float32), torch.tensor([5, 3]))
    inputs = Shape().inputs(torch.float32)
    with pytest.raises(UserError, match="share one type"):
        attend(by_triton, [inputs[0].bfloat16(), *inputs[1:]], torch.tensor([5, 3]))


@pytest.mark.parametrize("programs", [1, 7], ids=["one program", "seven"])
def test_on_ascend_no_number_of_programs_leaves_work_undone(monkeypatch: pytest.MonkeyPatch, programs: int) -> None:
    pytest.importorskip("triton")
    op = load("prefix_attention", "ascend")
    monkeypatch.setattr(op, "PROGRAMS", programs)
    # 3 x 2 key heads with 3 tiles of 168 queries and as many of 130 prompt's keys and of 144 own keys
    shape = Shape(prompts=3, key_heads=2, group=24, new=4, own=6, width=130)
    inputs, length = shape.inputs(torch.float32), torch.tensor([130, 7, 0])
    assert_alike(with_gradients(op, inputs, length), with_gradients(reference, inputs, length))
